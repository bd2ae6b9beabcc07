//! The same tables in object stores that speak the clouds' protocols, run as local servers: Azurite for Azure, moto for
//! S3. They are fetched into `.build` once; without Node or Python the tests say that they were skipped.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weir::catalog::Secret;
use weir::delta::{CommitOutcome, MaintenancePolicy};

use super::*;

/// Azurite's documented development account.
const AZURE_ACCOUNT: &str = "devstoreaccount1";
const AZURE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A server that ends with the test.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts `command` and waits until it listens.
    fn start(mut command: Command, port: u16) -> Self {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut server = Self { child, port };
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(server.child.try_wait().unwrap().is_none(), "the store's server has ended");
            assert!(begin.elapsed() < Duration::from_secs(60), "the store's server does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }
}

fn build_folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".build").join(name)
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn skipped(test: &str, why: &str) {
    eprintln!("\n*** SKIPPED {test}: {why} ***\n");
}

fn azurite() -> Option<Server> {
    let folder = build_folder("azurite");
    let program = folder.join("node_modules/.bin/azurite-blob");
    if !program.exists() {
        std::fs::create_dir_all(&folder).unwrap();
        let mut install = Command::new("npm");
        install.args(["install", "--no-audit", "--no-fund", "--no-save", "azurite@3"]).current_dir(&folder);
        if !succeeds(&mut install) || !program.exists() {
            return None;
        }
    }
    let port = free_port();
    let mut command = Command::new(program);
    command.args(["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--blobHost", "127.0.0.1"]);
    command.args(["--blobPort", &port.to_string()]);
    Some(Server::start(command, port))
}

/// By the interpreter, never by the scripts in `bin`: those name the folder they were installed from, and `.build` may be
/// shared by clones that are gone.
fn moto() -> Option<Server> {
    let folder = build_folder("moto");
    let python = folder.join("bin/python");
    let is_there = || succeeds(Command::new(&python).args(["-c", "import moto.server, flask"]));
    if !is_there() {
        let made = succeeds(Command::new("python3").args(["-m", "venv"]).arg(&folder));
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "--quiet", "moto[server,s3]>=5.1"]);
        if !made || !succeeds(&mut install) || !is_there() {
            return None;
        }
    }
    let port = free_port();
    let mut command = Command::new(python);
    command.args(["-m", "moto.server", "--host", "127.0.0.1", "--port", &port.to_string()]);
    Some(Server::start(command, port))
}

fn secrets(pairs: &[(&str, &str)]) -> BTreeMap<String, Secret> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), Secret::new(*value))).collect()
}

/// Everything a pipeline asks of a store: a partitioned table, racing commits, fencing, checkpoints, queries.
async fn a_table_lives_there(location: &str, options: &BTreeMap<String, Secret>) {
    let env = Env::system().unwrap();
    let at = || TableStore::open(location, options, &env).unwrap();
    at().probe().await.unwrap();
    let mut def = payments();
    def.partitioned_by = vec!["day".into()];
    let table = Table::open_or_create(at(), &def).await.unwrap();
    let other = Table::open(at()).await.unwrap();
    let run = async |table: &Table, pipeline: &str, base: i64| {
        for epoch in 1..=5 {
            let start = base + epoch * 10;
            let staged = stage(table, &rows(start..start + 10)).await.unwrap();
            table.commit(request(pipeline, epoch, epoch, staged)).await.unwrap();
        }
    };
    tokio::join!(run(&table, "p", 0), run(&other, "q", 1000));
    let third = Table::open(at()).await.unwrap();
    let again = third.commit(request("q", 5, 5, StagedFiles::default())).await.unwrap();
    assert!(matches!(again, CommitOutcome::AlreadyCommitted { .. }));
    let fenced = third.commit(request("q", 5, 6, StagedFiles::default())).await.unwrap_err();
    assert_eq!(fenced.kind(), weir::error::ErrorKind::Fenced);

    // A file above the size of one upload part.
    let staged = stage(&table, &noise(400_000)).await.unwrap();
    assert!(staged.bytes > 6 << 20, "{} bytes", staged.bytes);
    table.commit(request("p", 6, 6, staged)).await.unwrap();

    assert!(
        table.maintain(&MaintenancePolicy { checkpoint_every: 5, ..Default::default() }).await.unwrap().checkpointed
    );
    let fresh = Table::open(at()).await.unwrap();
    assert_eq!(fresh.transactions("weir:p").await.unwrap()["weir:p"], 6);
    let count = query(&fresh, "SELECT count(*), count(DISTINCT id) FROM t").await;
    assert_eq!(count[0].column(0).as_primitive::<Int64Type>().value(0), 400_100);
    assert_eq!(count[0].column(1).as_primitive::<Int64Type>().value(0), 400_100);
    let warehouse = TableStore::open(location.rsplit_once('/').unwrap().0, options, &env).unwrap();
    assert_eq!(warehouse.tables().await.unwrap()[0].0, "payments");
}

/// Rows that do not compress, in one partition.
fn noise(count: i64) -> RecordBatch {
    let hash =
        |id: i64| (id as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values((0..count).map(|id| (hash(id) >> 1) as i64 | 1 << 40)))),
        ("amount", Arc::new(Float64Array::from_iter_values((0..count).map(|id| hash(id + 1) as f64 / 7.0)))),
        ("day", Arc::new(StringArray::from_iter_values((0..count).map(|_| "d1")))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_lives_in_azure_blob_storage() {
    let Some(server) = azurite() else { return skipped("Azure", "Azurite cannot be installed (is Node there?)") };
    let endpoint = format!("http://127.0.0.1:{}/{AZURE_ACCOUNT}", server.port);
    let options = secrets(&[
        ("azure_storage_account_name", AZURE_ACCOUNT),
        ("azure_storage_account_key", AZURE_KEY),
        ("azure_storage_endpoint", &endpoint),
        ("allow_http", "true"),
    ]);
    create_container(server.port, "lake");
    a_table_lives_there("abfss://lake@devstoreaccount1.dfs.core.windows.net/wh/payments", &options).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_lives_in_s3() {
    let Some(server) = moto() else { return skipped("S3", "moto cannot be installed (is Python there?)") };
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    let options = secrets(&[
        ("aws_access_key_id", "test"),
        ("aws_secret_access_key", "test"),
        ("aws_region", "us-east-1"),
        ("aws_endpoint", &endpoint),
        ("allow_http", "true"),
    ]);
    create_bucket(server.port, "lake");
    a_table_lives_there("s3://lake/wh/payments", &options).await;
}

/// Makes a container: one signed request, made by Node, which Azurite needs anyway.
fn create_container(port: u16, name: &str) {
    let script = r#"
        const [port, account, key, name] = process.argv.slice(1);
        const date = new Date().toUTCString(), version = "2021-08-06";
        const path = `/${account}/${name}`;
        const text = "PUT" + "\n".repeat(12) + `x-ms-date:${date}\nx-ms-version:${version}\n/${account}${path}\nrestype:container`;
        const mac = require("crypto").createHmac("sha256", Buffer.from(key, "base64")).update(text, "utf8").digest("base64");
        const headers = { "x-ms-date": date, "x-ms-version": version, "Content-Length": 0,
                          Authorization: `SharedKey ${account}:${mac}` };
        const options = { host: "127.0.0.1", port, method: "PUT", path: `${path}?restype=container`, headers };
        require("http").request(options, answer => process.exit(answer.statusCode === 201 ? 0 : answer.statusCode)).end();
    "#;
    let mut node = Command::new("node");
    node.args(["-e", script, &port.to_string(), AZURE_ACCOUNT, AZURE_KEY, name]);
    assert!(node.status().unwrap().success(), "the container was not made");
}

/// Makes a bucket; moto checks no signatures.
fn create_bucket(port: u16, name: &str) {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "PUT /{name} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
