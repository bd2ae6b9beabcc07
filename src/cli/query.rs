//! `weir query`: one statement, against the local warehouse or a Flight SQL server.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::Failure;
use super::format::{OutputFormat, RowWriter};
use super::output::Output;
use super::serve::{brake_bytes, open_warehouse};
use crate::config::{Config, Secret};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::memory::counted::HeldBytes;
use crate::serve::brake::{Brake, exceeded};
use crate::serve::choose_cryptography;
use crate::serve::failure::query_error;
use crate::serve::warehouse::{Query, Warehouse, of_server};

/// Files in which Debian, Red Hat and Alpine keep the certificate authorities that the system trusts.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Arguments of `weir query`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The statement: SELECT, SHOW …, DESCRIBE … or EXPLAIN …
    pub sql: String,
    /// A SQL file whose sources, views, models … can be described and whose functions can be called; may be repeated.
    #[arg(short, long = "file", value_name = "FILE", conflicts_with = "url")]
    pub files: Vec<PathBuf>,
    /// The form in which rows are printed.
    #[arg(long, value_enum, default_value_t)]
    pub format: OutputFormat,
    /// A Flight SQL server (`grpc://host:port`, `grpc+tls://host:port`) that runs the statement instead of the local
    /// warehouse.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The certificate (PEM) of the server or of its authority; default: those that the system trusts.
    #[arg(long, value_name = "FILE", requires = "url")]
    pub ca: Option<PathBuf>,
    /// The warehouse's folder; default: the configuration's.
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    pub warehouse: Option<String>,
}

/// The place where the statement runs.
pub enum Target {
    Local(Arc<Warehouse>),
    Server { url: String, token: Option<Secret>, ca: Option<PathBuf> },
}

/// Runs the statement and prints its rows.
pub async fn run(args: Args, config: &Config) -> Result<(), Failure> {
    let target = match args.url {
        Some(url) => Target::Server { url, token: config.flight.token.clone(), ca: args.ca },
        None => Target::Local(open_warehouse(config, args.warehouse.as_deref(), &args.files).await?),
    };
    let brake = Brake::default();
    let query = brake.enter(HeldBytes::default());
    if matches!(target, Target::Local(_)) {
        brake.watch(brake_bytes(config), || true)?;
    }
    tokio::select! {
        biased;
        () = query.pulled() => Err(exceeded().into()),
        done = execute(&args.sql, args.format, target, Output::default()) => done,
    }
}

/// Runs the statement and writes its rows to `out`.
pub async fn execute(sql: &str, format: OutputFormat, target: Target, out: impl Write) -> Result<(), Failure> {
    match target {
        Target::Local(warehouse) => Ok(print(&warehouse.plan_statement(sql).await?, format, out).await?),
        Target::Server { url, token, ca } => {
            let mut out = BufWriter::new(out);
            let mut client = connect(&url, token, ca.as_deref()).await?;
            let info = client.execute(sql.to_owned(), None).await;
            let info = info.map_err(|error| of_server(flight_error(error), sql))?;
            let schema = Arc::new(info.clone().try_decode_schema().internal(|| "answer has no schema".to_owned())?);
            for endpoint in info.endpoint {
                let Some(ticket) = endpoint.ticket else { continue };
                let rows = client.do_get(ticket).await.map_err(flight_error)?;
                write_rows(format, &schema, rows.map_err(flight_error).boxed(), &mut out).await?;
            }
            Ok(())
        }
    }
}

/// Runs a planned statement and writes its rows to `out`.
pub async fn print(query: &Query, format: OutputFormat, out: impl Write) -> Result<()> {
    let mut out = BufWriter::new(out);
    let stream = query.stream().await?;
    let schema = stream.schema();
    write_rows(format, &schema, stream.map_err(query_error).boxed(), &mut out).await
}

async fn write_rows(
    format: OutputFormat,
    described: &SchemaRef,
    mut rows: BoxStream<'_, Result<RecordBatch>>,
    out: &mut impl Write,
) -> Result<()> {
    let first = rows.try_next().await?;
    // The rows' own schema: the described one may differ in nullability.
    let schema = first.as_ref().map_or_else(|| Arc::clone(described), RecordBatch::schema);
    let mut writer = RowWriter::new(format, out, &schema)?;
    if let Some(first) = first {
        writer.write(&first)?;
    }
    while let Some(batch) = rows.try_next().await? {
        writer.write(&batch)?;
    }
    writer.finish().map(|_| ())
}

async fn connect(url: &str, token: Option<Secret>, ca: Option<&Path>) -> Result<FlightSqlServiceClient<Channel>> {
    let (scheme, address) = url.split_once("://").unwrap_or(("grpc", url));
    let tls = match scheme {
        "grpc" | "grpc+tcp" | "http" => false,
        "grpc+tls" | "grpcs" | "https" => true,
        other => {
            return Err(Error::config(format!("address `{url}` has the unknown scheme `{other}`"))
                .with_hint("Write `grpc://host:port` or `grpc+tls://host:port`."));
        }
    };
    let uri = format!("{}://{address}", if tls { "https" } else { "http" });
    let mut endpoint =
        Endpoint::from_shared(uri).context(ErrorKind::Config, || format!("`{url}` is not an address"))?;
    if tls {
        choose_cryptography();
        let authorities = Certificate::from_pem(trusted_authorities(ca)?);
        endpoint = endpoint
            .tls_config(ClientTlsConfig::new().ca_certificate(authorities))
            .context(ErrorKind::Config, || "TLS cannot be set up".to_owned())?;
    }
    let channel = endpoint.connect().await.map_err(|error| {
        Error::environment(format!("no server answers at `{url}`"))
            .with_hint("Start one with `weir serve`, or leave `--url` out to read the local warehouse.")
            .with_source(error)
    })?;
    let mut client = FlightSqlServiceClient::new(channel);
    if let Some(token) = token {
        client.set_token(token.expose().to_owned());
    }
    Ok(client)
}

/// The certificates to trust, in PEM: those of `ca`, else the system's.
fn trusted_authorities(ca: Option<&Path>) -> Result<String> {
    if let Some(path) = ca {
        return std::fs::read_to_string(path)
            .context(ErrorKind::Config, || format!("file `{}` cannot be read", path.display()));
    }
    SYSTEM_AUTHORITIES.iter().find_map(|path| std::fs::read_to_string(path).ok()).ok_or_else(|| {
        Error::config("no trusted certificates were found on this system")
            .with_hint("Name the certificate of the server or its authority with `--ca FILE`.")
    })
}

/// The server's error: its status carries message, detail and hint on separate lines.
fn flight_error(error: FlightError) -> Error {
    match error {
        FlightError::Tonic(status) => {
            let kind = match status.code() {
                tonic::Code::InvalidArgument => ErrorKind::Sql,
                tonic::Code::Unauthenticated => ErrorKind::Config,
                tonic::Code::DataLoss => ErrorKind::Damaged,
                tonic::Code::Internal => ErrorKind::Internal,
                _ => ErrorKind::Environment,
            };
            let mut lines = status.message().lines();
            let mut error = Error::new(kind, lines.next().unwrap_or("server refused the statement"));
            for line in lines {
                error = match line.strip_prefix("hint: ") {
                    Some(hint) => error.with_hint(hint),
                    None => {
                        let before = error.detail().map(|detail| format!("{detail}\n")).unwrap_or_default();
                        error.with_detail(format!("{before}{line}"))
                    }
                };
            }
            error
        }
        other => Error::environment("server's answer cannot be read").with_source(other),
    }
}
