//! A server under attack beside a pipeline: whatever clients send, epochs go on, health checks are answered, memory stays within its limit,
//! and SIGTERM is obeyed.
//!
//! Takes half a minute. `WEIR_ATTACK_SECONDS=600 cargo test … -- attack` is the long form, which also holds to the times that the
//! documents promise.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any, CommandPreparedStatementQuery,
    ProstMessageExt,
};
use arrow_flight::{Action, FlightClient, FlightDescriptor};
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::program::{Running, Weir};

const PIPELINE: &str = "
CREATE SOURCE tx WITH (connector = 'generator', rate = '5000', seed = '7');
CREATE TABLE kept (transaction_id VARCHAR, amount DOUBLE) USING DELTA;
CREATE PIPELINE live WITH (trigger = '1 second') AS BEGIN
  INSERT INTO kept SELECT transaction_id, amount FROM tx WHERE amount > 50;
END;
";

const LIMIT_MIB: u64 = 800;

const CONFIG: &str = "
memory_limit: 800MiB
flight: {listen: '127.0.0.1:0', query_timeout: 20s, idle_timeout: 5s, max_connections: 1100}
http: {listen: '127.0.0.1:0'}
log: {format: json}
";

/// Statements that are deep, long or wide, `times` over.
fn shapes(times: usize) -> Vec<String> {
    let around =
        |open: &str, inner: &str, close: &str| format!("SELECT {}{inner}{}", open.repeat(times), close.repeat(times));
    let behind = |start: &str, more: &str| format!("{start}{}", more.repeat(times));
    let doubled = |n: usize| {
        (1..=n).fold("WITH c0 AS (SELECT 1 AS a)".to_owned(), |text, n| {
            format!("{text}, c{n} AS (SELECT x.a FROM c{} x, c{} y)", n - 1, n - 1)
        })
    };
    vec![
        around("(", "1", ")"),
        around("CAST(", "1", " AS INT)"),
        around("CAST(", "", ""),
        around("CASE WHEN ", "true", " THEN true END"),
        around("CASE WHEN ", "", ""),
        around("abs(", "1", ")"),
        around("[", "1", "]"),
        around("{'a': ", "1", "}"),
        around("(SELECT ", "1", ")"),
        around("* FROM (SELECT ", "1", ") t"),
        around("EXISTS(SELECT ", "1", ")"),
        around("TRIM(", "'a' 'b'", ")"),
        format!("SELECT * FROM {}t{}", "(".repeat(times), ")".repeat(times)),
        format!("SELECT CAST(NULL AS INT{})", "[]".repeat(times)),
        format!("SELECT CAST(NULL AS {}INT{})", "STRUCT<a ".repeat(times), ">".repeat(times)),
        format!("SELECT {}true", "NOT ".repeat(times)),
        format!("SELECT {}1", "- ".repeat(times)),
        behind("SELECT 1", "+1"),
        behind("SELECT 1", " AND true"),
        behind("SELECT 1", " OR amount = 1"),
        behind("SELECT 'a'", "||'a'"),
        behind("SELECT 1", "::INT"),
        behind("SELECT a", "[1]"),
        behind("SELECT 1", " BETWEEN 1 AND 2"),
        behind("SELECT 1", " UNION SELECT 1"),
        behind("SELECT 1", " UNION ALL SELECT 1"),
        behind("SELECT 1", " EXCEPT SELECT 1"),
        behind("SELECT 1 FROM kept", ", kept"),
        behind("SELECT 1 FROM kept t0", " NATURAL JOIN kept"),
        behind("SELECT 1", ", 1 AS c"),
        behind("SELECT 1 FROM kept WHERE amount IN (1", ", 2") + ")",
        behind("SELECT now()", " AT TIME ZONE 'UTC'"),
        format!("{}SELECT 1", "EXPLAIN ".repeat(times)),
        format!("{} SELECT count(*) FROM c{}", doubled(times.min(300)), times.min(300)),
        format!("SELECT $${}", "$a$".repeat(times)),
        format!("SELECT '{}", "''".repeat(times)),
        format!("{}1", "SELECT ".repeat(times)),
    ]
}

/// Statements that want more memory than there is.
const LARGE: [&str; 14] = [
    "SELECT length(repeat('x', 2000000000))",
    "SELECT length(lpad('x', 2000000000))",
    "SELECT length(rpad('x', 2000000000, 'yz'))",
    "SELECT array_length(range(1, 500000000))",
    "SELECT array_length(generate_series(1, 1000000000))",
    "SELECT array_length(array_repeat(1, 500000000))",
    "SELECT length(replace(repeat('x', 1000000), 'x', repeat('y', 1000000)))",
    "SELECT max(length(repeat('x', value))) FROM generate_series(1, 100000000, 100000)",
    "SELECT count(*) FROM kept WHERE transaction_id = repeat('x', 500000000)",
    "SELECT length(a || a) FROM (SELECT a || a AS a FROM (SELECT repeat('x', 1000000) AS a))",
    "SELECT arrow_cast(NULL, 'FixedSizeBinary(2000000000)')",
    "SELECT count(*) FROM (SELECT unnest(range(1, 100000000)) AS a)",
    "SELECT array_agg(a.value) FROM generate_series(1, 100000) a, generate_series(1, 100000) b",
    "SELECT levenshtein(repeat('x', 1000000), repeat('y', 1000000))",
];

/// Statements that compute for long.
const SLOW: [&str; 5] = [
    "SELECT count(*) FROM generate_series(1, 300000) a JOIN generate_series(1, 300000) b ON a.value * b.value = -1",
    "SELECT count(*) FROM generate_series(1, 3000000) a, generate_series(1, 3000000) b",
    "SELECT value FROM generate_series(1, 100000000) ORDER BY value % 7919, value DESC LIMIT 5 OFFSET 90000000",
    "SELECT count(DISTINCT a.value + b.value) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b",
    "SELECT sum(a.value * b.value) FROM generate_series(1, 100000) a JOIN generate_series(1, 100000) b ON a.value % 3 = b.value % 3 WHERE a.value < b.value",
];

async fn channel(addr: SocketAddr) -> Option<Channel> {
    Endpoint::from_shared(format!("http://{addr}")).ok()?.connect().await.ok()
}

/// Asks and reads everything, for as long as `patience` lasts.
async fn ask(addr: SocketAddr, sql: &str, patience: Duration) -> Option<Code> {
    let channel = channel(addr).await?;
    let asked = async {
        let mut client = FlightSqlServiceClient::new(channel);
        let code = |error: arrow_flight::error::FlightError| match error {
            arrow_flight::error::FlightError::Tonic(status) => status.code(),
            _ => Code::Unknown,
        };
        let info = client.execute(sql.to_owned(), None).await.map_err(code)?;
        let ticket = info.endpoint[0].ticket.clone().ok_or(Code::Unknown)?;
        let mut rows = client.do_get(ticket).await.map_err(code)?;
        while rows.try_next().await.map_err(code)?.is_some() {}
        Ok::<_, Code>(())
    };
    timeout(patience, asked).await.ok()?.err()
}

/// Binds parameters without end.
async fn bind_for_ever(addr: SocketAddr) -> Option<()> {
    let mut client = FlightClient::new(channel(addr).await?);
    let query = ActionCreatePreparedStatementRequest { query: "SELECT $1::BIGINT".to_owned(), transaction_id: None };
    let action = Action { r#type: "CreatePreparedStatement".to_owned(), body: query.as_any().encode_to_vec().into() };
    let answer = client.do_action(action).await.ok()?.try_next().await.ok()??;
    let prepared: ActionCreatePreparedStatementResult = Any::decode(answer).ok()?.unpack().ok()??;
    let command = CommandPreparedStatementQuery { prepared_statement_handle: prepared.prepared_statement_handle };
    let column: ArrayRef = Arc::new(Int64Array::from(vec![7; 50_000]));
    let batch = RecordBatch::try_from_iter([("a", column)]).ok()?;
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let endless = stream::repeat_with(move || Ok(batch.clone()));
    let messages = FlightDataEncoderBuilder::new().with_flight_descriptor(Some(descriptor)).build(endless);
    let put = async { client.do_put(messages).await?.try_next().await };
    assert!(timeout(Duration::from_secs(30), put).await.is_ok_and(|put| put.is_err()), "endless parameters were taken");
    Some(())
}

/// Asks for much and reads a little now and then.
async fn read_slowly(addr: SocketAddr, over: &AtomicBool) -> Option<()> {
    let mut client = FlightSqlServiceClient::new(channel(addr).await?);
    let sql = "SELECT value, repeat('x', 1000) AS x FROM generate_series(1, 1000000000)";
    let info = client.execute(sql.to_owned(), None).await.ok()?;
    let mut rows = client.do_get(info.endpoint[0].ticket.clone()?).await.ok()?;
    while !over.load(Ordering::Relaxed) && rows.next().await?.is_ok() {
        sleep(Duration::from_secs(2)).await;
    }
    Some(())
}

struct Attack {
    addr: SocketAddr,
    over: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Attack {
    /// Repeats `act` with a growing number until the attack is over.
    fn repeat<F: Future<Output = ()> + Send + 'static>(&self, act: impl Fn(SocketAddr, usize) -> F + Send + 'static) {
        let (addr, over, asked) = (self.addr, Arc::clone(&self.over), Arc::clone(&self.asked));
        tokio::spawn(async move {
            for round in 0.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                act(addr, round).await;
                asked.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(2)).await;
            }
        });
    }

    fn begin(&self) {
        for times in [12, 45, 95, 300, 950, 3_000, 20_000] {
            let all = Arc::new(shapes(times));
            self.repeat(move |addr, round| {
                let all = Arc::clone(&all);
                async move {
                    let _ = ask(addr, &all[round % all.len()], Duration::from_secs(10)).await;
                }
            });
        }
        for first in 0..2 {
            self.repeat(move |addr, round| async move {
                let _ = ask(addr, LARGE[(first * 7 + round) % LARGE.len()], Duration::from_secs(10)).await;
            });
        }
        for first in 0..6 {
            // Clients that leave, some of them soon.
            self.repeat(move |addr, round| async move {
                let patience = Duration::from_millis(if round % 2 == 0 { 500 } else { 5_000 });
                let _ = ask(addr, SLOW[(first + round) % SLOW.len()], patience).await;
            });
        }
        self.repeat(|addr, _| async move {
            let _ = bind_for_ever(addr).await;
        });
        for _ in 0..3 {
            let over = Arc::clone(&self.over);
            self.repeat(move |addr, _| {
                let over = Arc::clone(&over);
                async move {
                    let _ = read_slowly(addr, &over).await;
                }
            });
        }
    }
}

/// The addresses that `weir run --serve` has logged.
fn addresses(running: &mut Running) -> (SocketAddr, SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let printed = running.printed();
        let found = |key: &str| {
            let rest = printed.split_once(&format!("\"{key}\":\""))?.1;
            rest.split_once('"')?.0.parse().ok()
        };
        if let (Some(flight), Some(http)) = (found("flight"), found("http")) {
            return (flight, http);
        }
        assert!(running.runs() && Instant::now() < deadline, "{printed}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Duration of a health check.
async fn health(addr: SocketAddr) -> Duration {
    let started = Instant::now();
    let answered = async {
        let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    };
    timeout(Duration::from_secs(20), answered).await.expect("health check is not answered");
    started.elapsed()
}

/// Watches for `span`: gaps between commits, times of health checks, both sorted.
async fn watch(weir: &Weir, http: SocketAddr, span: Duration) -> (Vec<Duration>, Vec<Duration>) {
    let file = weir.path("warehouse/_weir/live/progress.jsonl");
    let size = || std::fs::metadata(&file).map_or(0, |file| file.len());
    let (started, mut last, mut seen) = (Instant::now(), size(), Instant::now());
    let (mut gaps, mut checks, mut checked) = (Vec::new(), Vec::new(), Instant::now());
    while started.elapsed() < span {
        sleep(Duration::from_millis(10)).await;
        if size() != last {
            gaps.push(seen.elapsed());
            (last, seen) = (size(), Instant::now());
        }
        if checked.elapsed() > Duration::from_millis(500) {
            checks.push(health(http).await);
            checked = Instant::now();
        }
    }
    gaps.push(seen.elapsed());
    gaps.sort_unstable();
    checks.sort_unstable();
    (gaps, checks)
}

fn p99(sorted: &[Duration]) -> Duration {
    sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
}

/// The most memory that the process has had, in MiB.
fn peak_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_goes_on_beside_a_server_under_attack() {
    let long = std::env::var("WEIR_ATTACK_SECONDS").ok().and_then(|seconds| seconds.parse::<u64>().ok());
    let weir = Weir::new();
    weir.write("c.yaml", CONFIG);
    weir.write("p.sql", PIPELINE);
    let mut running = weir.start(&["run", "--serve", "-c", "c.yaml", "p.sql"], &[], "log");
    let (addr, http) = addresses(&mut running);
    let quiet = watch(&weir, http, Duration::from_secs(if long.is_some() { 30 } else { 6 })).await;
    let attack = Attack { addr, over: Arc::default(), asked: Arc::default() };
    let idle: Vec<TcpStream> = (0..if long.is_some() { 1_000 } else { 200 })
        .filter_map(|_| TcpStream::connect_timeout(&addr, Duration::from_secs(5)).ok())
        .collect();
    attack.begin();
    let (gaps, checks) = watch(&weir, http, Duration::from_secs(long.unwrap_or(25))).await;
    assert!(running.runs(), "the server died: {}", running.printed());
    let peak = peak_mib(running.pid());
    let asked = attack.asked.load(Ordering::Relaxed);
    let stopping = Instant::now();
    let code = running.terminate();
    let stopped = stopping.elapsed();
    attack.over.store(true, Ordering::Relaxed);
    drop(idle);
    println!(
        "{asked} statements; commits: quiet p99 {:?}, attacked p99 {:?}, longest {:?} of {}; health p99 {:?}; peak {peak} MiB of {LIMIT_MIB}; stopped in {stopped:?}",
        p99(&quiet.0),
        p99(&gaps),
        gaps.last(),
        gaps.len(),
        p99(&checks),
    );
    assert_eq!(code, Some(0), "{}", running.printed());
    assert!(asked > 50, "only {asked} statements were asked");
    if long.is_some() {
        assert!(p99(&gaps) <= Duration::from_millis(1_500), "{:?}", p99(&gaps));
        assert!(peak <= LIMIT_MIB + 150, "{peak} MiB");
        assert!(stopped <= Duration::from_secs(5), "{stopped:?}");
    } else {
        assert!(gaps.last() <= Some(&Duration::from_secs(10)), "{:?}", gaps.last());
        assert!(peak <= LIMIT_MIB + 300, "{peak} MiB");
        assert!(stopped <= Duration::from_secs(20), "{stopped:?}");
    }
}

/// Runs `weir check` on a file and gives what it says; it has to say something in time.
fn checked(weir: &Weir, sql: &str) -> (Option<i32>, String) {
    weir.write("q.sql", sql);
    let mut running = weir.start(&["check", "q.sql"], &[], "check.log");
    let code = running.wait(Duration::from_secs(60));
    (code, running.printed())
}

#[test]
fn check_refuses_what_is_too_deep_and_survives() {
    let weir = Weir::new();
    weir.write("warehouse/x", "");
    for times in [8, 95, 950, 20_000] {
        for sql in shapes(times) {
            let statement = format!("CREATE TABLE t (a BIGINT) USING DELTA;\nINSERT INTO t {sql};\n{sql};\n");
            let (code, printed) = checked(&weir, &statement);
            assert!(matches!(code, Some(0 | 1)), "{code:?} {}: {printed}", &sql[..sql.len().min(80)]);
        }
    }
}

#[test]
fn check_refuses_views_and_functions_that_double() {
    let weir = Weir::new();
    let mut views = "CREATE VIEW v0 AS SELECT 1 AS a;\n".to_owned();
    let mut functions = "CREATE FUNCTION f0(x BIGINT) RETURNS BIGINT LANGUAGE sql AS $$ x + 1 $$;\n".to_owned();
    for n in 1..=40 {
        views += &format!("CREATE VIEW v{n} AS SELECT x.a FROM v{} x, v{} y;\n", n - 1, n - 1);
        functions += &format!(
            "CREATE FUNCTION f{n}(x BIGINT) RETURNS BIGINT LANGUAGE sql AS $$ f{}(x) + f{}(x) $$;\n",
            n - 1,
            n - 1
        );
    }
    for sql in [views, functions] {
        let (code, printed) = checked(&weir, &sql);
        assert_eq!(code, Some(1), "{printed}");
        assert!(printed.contains("comes to too much"), "{printed}");
    }
}
