use super::*;

fn parse(text: &str) -> Result<Config> {
    Config::parse(text, "weir.yaml", &|name| match name {
        "PORT" => Some("7000".to_owned()),
        "TRICKY" => Some("a\"b\\c: #d'e".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    })
}

fn refusal(text: &str) -> (String, Option<String>) {
    let error = parse(text).expect_err("must be refused");
    assert_eq!(error.kind(), ErrorKind::Config);
    (error.message().to_owned(), error.hint().map(str::to_owned))
}

#[test]
fn documented_file_states_the_defaults() {
    assert_eq!(parse(Config::documented()).unwrap(), Config::default());
}

#[test]
fn documented_file_names_every_key() {
    // Serde lists the keys it knows in the error about an unknown one.
    for (section, unknown) in [
        ("", "?: 1"),
        ("flight", "flight: {?: 1}"),
        ("http", "http: {?: 1}"),
        ("maintenance", "maintenance: {?: 1}"),
        ("delta", "delta: {?: 1}"),
        ("log", "log: {?: 1}"),
        ("kafka", "kafka: {?: 1}"),
    ] {
        let text = unknown.replace('?', "zzz");
        let error = serde_yaml::from_str::<Config>(&text).expect_err("zzz is no key").to_string();
        let known: Vec<_> = error.split('`').skip(3).step_by(2).collect();
        assert!(!known.is_empty(), "{error}");
        for key in known {
            let documented = Config::documented()
                .lines()
                .map(|line| line.trim_start_matches(['#', ' ']))
                .any(|line| line.starts_with(&format!("{key}: ")) || line == format!("{key}:"));
            assert!(documented, "`{section}.{key}` is not documented");
        }
    }
}

#[test]
fn every_setting_is_read() {
    let config = parse(
        "warehouse: s3://lake/w\nstorage: {aws_region: eu-central-1}\nmemory_limit: 4GiB\nparallelism: 3\n\
         flight: {listen: '0.0.0.0:1', token: t, tls_cert: c.pem, tls_key: k.pem, insecure: true, max_queries: 2, max_waiting: 0,\
         max_connections: 9, query_timeout: 5 minutes, idle_timeout: 30s}\nhttp: {listen: '127.0.0.1:2', insecure: true}\n\
         maintenance: {checkpoint_every_commits: 7, log_cleanup: false, remove_expired_files: false, keep_manifests: 9}\n\
         delta: {target_file_size: 1MB, compression: snappy}\nlog: {format: json, level: debug}\n\
         kafka: {fetch_wait_ms: 5, queued_bytes: 1024}\n",
    )
    .unwrap();
    assert_eq!(config.warehouse, "s3://lake/w");
    assert_eq!(config.storage["aws_region"].expose(), "eu-central-1");
    assert_eq!(config.memory_limit_bytes(), 4 << 30);
    assert_eq!(config.partitions(), 3);
    assert_eq!(config.flight.listen.port(), 1);
    assert_eq!(config.flight.token, Some(Secret::new("t")));
    assert_eq!(config.flight.tls_cert, Some(PathBuf::from("c.pem")));
    assert_eq!(config.flight.tls_key, Some(PathBuf::from("k.pem")));
    assert_eq!((config.flight.max_queries.get(), config.flight.max_waiting), (2, 0));
    assert_eq!(config.flight.max_connections.get(), 9);
    assert_eq!(
        (config.flight.query_timeout, config.flight.idle_timeout),
        (Interval::from_secs(300), Interval::from_secs(30))
    );
    assert!(config.flight.insecure && config.http.insecure);
    assert_eq!(config.http.listen.port(), 2);
    assert_eq!(
        config.maintenance,
        MaintenanceConfig {
            checkpoint_every_commits: 7,
            log_cleanup: false,
            remove_expired_files: false,
            keep_manifests: 9
        }
    );
    assert_eq!(config.delta.target_file_size, ByteSize(1_000_000));
    assert_eq!(config.delta.compression, Compression::SNAPPY);
    assert_eq!(config.log, LogConfig { format: LogFormat::Json, level: "debug".to_owned() });
    let kafka = config.kafka.properties();
    assert_eq!(kafka, [("fetch.wait.max.ms", "5".to_owned()), ("queued.max.messages.kbytes", "1".to_owned())]);
}

#[test]
fn an_empty_token_or_certificate_is_no_way_to_switch_security_off() {
    for key in ["token", "tls_cert", "tls_key"] {
        for value in ["${NOSUCH:-}", "", "''", "'  '", "~"] {
            let (message, _) = refusal(&format!("flight:\n  {key}: {value}\n"));
            assert!(message.contains("is empty"), "{key}: {value}: {message}");
        }
    }
}

#[test]
fn the_network_is_served_with_login_and_encryption_or_on_purpose() {
    let network = Some("0.0.0.0:1".parse().unwrap());
    let local = Some("127.0.0.1:1".parse().unwrap());
    let tls = "tls_cert: c, tls_key: k";
    for (text, flight, http, passes) in [
        ("{}".to_owned(), local, local, true),
        ("{}".to_owned(), None, None, true),
        ("{}".to_owned(), network, local, false),
        ("{}".to_owned(), local, network, false),
        ("flight: {token: t}".to_owned(), network, local, false),
        (format!("flight: {{{tls}}}"), network, local, false),
        (format!("flight: {{token: t, {tls}}}"), network, local, true),
        (format!("flight: {{token: t, {tls}}}"), network, network, false),
        ("flight: {insecure: true}".to_owned(), network, local, true),
        ("http: {insecure: true}".to_owned(), local, network, true),
    ] {
        assert_eq!(parse(&text).unwrap().check_exposure(flight, http).is_ok(), passes, "{text} {flight:?} {http:?}");
    }
}

#[test]
fn empty_and_commented_out_files_mean_the_defaults() {
    assert_eq!(parse("").unwrap(), Config::default());
    assert_eq!(parse("# nothing\n").unwrap(), Config::default());
}

#[test]
fn unknown_keys_are_refused_with_line_and_suggestion() {
    let (message, hint) = refusal("warehouse: x\nmemory_limt: 50%\n");
    assert!(message.starts_with("unknown field `memory_limt`"), "{message}");
    assert!(message.ends_with("in `weir.yaml`, line 2"), "{message}");
    assert_eq!(hint.as_deref(), Some("Did you mean `memory_limit`?"));
    let (message, hint) = refusal("flight:\n  listen: 127.0.0.1:1\n  tokens: x\n");
    assert!(message.starts_with("flight: unknown field `tokens`"), "{message}");
    assert!(message.ends_with("line 3"), "{message}");
    assert_eq!(hint.as_deref(), Some("Did you mean `token`?"));
    let (_, hint) = refusal("entirely_different: 1\n");
    assert_eq!(hint.as_deref(), Some("`weir config` prints every key with its meaning."));
}

#[test]
fn bad_values_are_refused_with_their_line() {
    for (text, message) in [
        ("memory_limit: lots", "`lots` is neither a share such as `60%` nor a size such as `4GiB`"),
        ("memory_limit: 0%", "`0%` is not a share between 1% and 100%"),
        ("parallelism: 0", "`0` is neither `auto` nor 1 or more"),
        ("delta: {compression: lzo}", "`lzo` is not one of"),
        ("delta: {compression: gzip(0)}", "`gzip(0)` is not one of"),
        ("delta: {compression: gzip(10)}", "`gzip(10)` is not one of"),
        ("delta: {compression: zstd(0)}", "`zstd(0)` is not one of"),
        ("delta: {compression: zstd(23)}", "`zstd(23)` is not one of"),
        ("delta: {target_file_size: 3 parsecs}", "`3 parsecs` is not a size such as `128MiB`"),
        ("maintenance: {keep_manifests: 1}", "`maintenance.keep_manifests` must be at least 2"),
        ("maintenance: {checkpoint_every_commits: 0}", "`maintenance.checkpoint_every_commits` must be at least 1"),
        ("flight: {tls_cert: a.pem}", "`flight.tls_cert` and `flight.tls_key` must be given together"),
        ("flight: {query_timeout: 0s}", "time `0s` is out of range"),
        ("flight: {query_timeout: 5 moons}", "`5 moons` is not a time such as `30s` or `5 minutes`"),
        ("flight: {listen: nowhere}", "invalid socket address"),
        ("log: {format: xml}", "unknown variant `xml`"),
        ("warehouse: ''", "`warehouse` is empty"),
        ("warehouse: 'x", "unexpected end of stream"),
    ] {
        let (refused, _) = refusal(text);
        assert!(refused.contains(message), "{text}: {refused}");
        assert!(refused.contains("in `weir.yaml`"), "{refused}");
    }
}

#[test]
fn variables_are_replaced_and_defaults_taken() {
    let config = parse("http:\n  listen: 127.0.0.1:${PORT}\nwarehouse: ${NOWHERE:-/tmp/w}/x # ${UNSET}\n").unwrap();
    assert_eq!(config.http.listen.port(), 7000);
    assert_eq!(config.warehouse, "/tmp/w/x");
    assert_eq!(parse("warehouse: ${EMPTY:-fallback}\n").unwrap().warehouse, "fallback");
    assert_eq!(parse("warehouse: a$${PORT}$b\n").unwrap().warehouse, "a${PORT}$b");
}

#[test]
fn variable_values_keep_every_character_inside_quotes() {
    assert_eq!(parse("warehouse: \"${TRICKY}\"\n").unwrap().warehouse, "a\"b\\c: #d'e");
    assert_eq!(parse("warehouse: '${TRICKY}'\n").unwrap().warehouse, "a\"b\\c: #d'e");
    assert_eq!(parse("warehouse: 'it''s ${PORT}'\n").unwrap().warehouse, "it's 7000");
    assert_eq!(parse("warehouse: it's ${PORT}\n").unwrap().warehouse, "it's 7000");
    let (message, hint) = refusal("\nwarehouse: ${TRICKY}\n");
    assert_eq!(message, "the value of `TRICKY` has characters that YAML reads specially in `weir.yaml`, line 2");
    assert_eq!(hint.as_deref(), Some("Put double quotes around `${TRICKY}`."));
}

#[test]
fn unset_variables_are_refused_by_name() {
    let (message, hint) = refusal("warehouse: x\nflight:\n  token: ${UNSET}\n");
    assert_eq!(message, "environment variable `UNSET` is not set in `weir.yaml`, line 3");
    assert_eq!(hint.as_deref(), Some("Set it, or give a default: `${UNSET:-default}`."));
    let (message, hint) = refusal("warehouse: ${EMPTY}\n");
    assert_eq!(message, "environment variable `EMPTY` is empty in `weir.yaml`, line 1");
    assert_eq!(hint.as_deref(), Some("Set it, or give a default: `${EMPTY:-default}`; `${EMPTY:-}` is an empty text."));
    assert_eq!(refusal("warehouse: ${PORT\n").0, "`${` has no `}` in `weir.yaml`, line 1");
}

#[test]
fn secrets_are_never_printed() {
    let config = parse("flight: {token: hunter2}\nstorage: {key: hunter2}\n").unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    let (message, _) = refusal("flight: {token: [hunter2]}\n");
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn number_like_secrets_stay_texts() {
    assert_eq!(parse("flight: {token: ${PORT}}\n").unwrap().flight.token, Some(Secret::new("7000")));
}

#[test]
fn sizes_know_decimal_and_binary_units() {
    for (text, bytes) in
        [("1", 1), ("2kb", 2_000), ("1.5 KiB", 1536), ("128MiB", 128 << 20), ("1TB", 1_000_000_000_000)]
    {
        assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
    }
    for text in ["", "MiB", "-1", "1XB", "0", "1e99TiB", "99999999999TiB"] {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
}

#[test]
fn shares_of_memory_are_shares_of_what_exists() {
    let whole = MemoryLimit::Percent(100).bytes();
    let half = MemoryLimit::Percent(50).bytes();
    assert!(whole > half && half > whole / 3, "{whole} {half}");
}

#[test]
fn missing_files_are_named() {
    let error = Config::load(Some(Path::new("/nowhere/weir.yaml"))).expect_err("does not exist");
    assert_eq!(error.message(), "cannot read the configuration `/nowhere/weir.yaml`");
    assert_eq!(error.kind(), ErrorKind::Config);
}
