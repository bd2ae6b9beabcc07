//! A real Apache Kafka for tests: one process, KRaft, on loopback, its jars fetched by `tests/tools/kafka/fetch.sh`.
//!
//! If Java or Maven are missing, [`RealKafka::shared`] says so loudly and returns `None`; tests then return early.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
pub use rdkafka::bindings as acl;
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use weir::catalog::{KafkaConnection, KafkaSecurity, Secret};
use weir::standing::{CommitPermit, Epoch, ManifestId};

/// The permit that a manifest would give.
pub fn permit(epoch: u64, manifest: i64) -> CommitPermit {
    CommitPermit::of_durable(Epoch(epoch), ManifestId(manifest))
}

const READY: Duration = Duration::from_secs(90);
const PATIENCE: Duration = Duration::from_secs(30);

/// The user whom the listener with login knows, and the password.
pub const USER: &str = "weir";
pub const PASSWORD: &str = "over-the-dam";

/// A user who may do what [`RealKafka::allow`] says, and no more; the password is [`PASSWORD`] too.
pub const GUEST: &str = "guest";

/// A running broker; dropping it kills it and deletes its data.
pub struct RealKafka {
    /// A shell that kills the broker when its standard input closes, also when this process is killed.
    keeper: Child,
    folder: tempfile::TempDir,
    bootstrap_servers: String,
    /// The listener that wants a login.
    login_servers: String,
}

impl RealKafka {
    /// The broker that concurrent tests share; it ends with the last of them. `None` = no Java or Maven here.
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: OnceLock<Mutex<Weak<RealKafka>>> = OnceLock::new();
        let mut shared = SHARED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = shared.upgrade() {
            return Some(running);
        }
        let started = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&started);
        Some(started)
    }

    /// Starts a broker of one's own and waits until it answers.
    pub fn start() -> Option<Self> {
        let jars = fetch_jars()?;
        let folder = tempfile::tempdir().unwrap();
        let ports = Ports::free();
        let properties = folder.path().join("server.properties");
        std::fs::write(&properties, server_properties(folder.path(), &ports)).unwrap();
        let formatted = java(&jars)
            .args(["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c"])
            .arg(&properties)
            .output()
            .unwrap();
        assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
        let log = File::create(folder.path().join("log.txt")).unwrap();
        let keeper = Command::new("sh")
            .args(["-c", r#""$@" </dev/null & cat >/dev/null; kill -9 $!"#, "kafka-keeper"])
            .args(std::iter::once(java(&jars).get_program()).chain(java(&jars).get_args()))
            .arg("kafka.Kafka")
            .arg(&properties)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let bootstrap_servers = format!("127.0.0.1:{}", ports.broker);
        let login_servers = format!("127.0.0.1:{}", ports.login);
        let kafka = Self { keeper, folder, bootstrap_servers, login_servers };
        kafka.wait_until_ready();
        Some(kafka)
    }

    /// Stops the broker's process where it is: its connections stay open, and nothing is answered.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let keeper = self.keeper.id();
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
        let name =
            |pid: &&str| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "java");
        let pid = children.split_whitespace().find(name).expect("the broker runs").to_owned();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// The options by which weir reaches it.
    pub fn connection(&self) -> KafkaConnection {
        KafkaConnection {
            bootstrap_servers: self.bootstrap_servers.clone(),
            security: KafkaSecurity {
                tls: false,
                ca_location: None,
                certificate_location: None,
                key_location: None,
                sasl: None,
            },
            properties: std::collections::BTreeMap::new(),
        }
    }

    /// The same broker through a listener that knows one user, [`USER`], by SASL PLAIN.
    pub fn connection_with_login(&self, password: &str) -> KafkaConnection {
        self.connection_as(USER, password)
    }

    /// The same as any user.
    pub fn connection_as(&self, user: &str, password: &str) -> KafkaConnection {
        let mut connection = self.connection();
        connection.bootstrap_servers.clone_from(&self.login_servers);
        connection.security.sasl = Some(("PLAIN".to_owned(), user.to_owned(), Secret::new(password)));
        connection
    }

    /// librdkafka's configuration to reach it.
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap_servers);
        config
    }

    /// Makes a topic and waits until its partitions have leaders.
    pub fn create_topic(&self, topic: &str, partitions: i32) {
        self.create_topic_with(topic, partitions, &[]);
    }

    /// As [`RealKafka::create_topic`], with topic settings such as `("cleanup.policy", "compact")`.
    pub fn create_topic_with(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            new = new.set(key, value);
        }
        let results = block_on(self.admin().create_topics([&new], &AdminOptions::new())).unwrap();
        results.into_iter().for_each(|result| drop(result.unwrap()));
        self.wait_for_partitions(topic, partitions);
    }

    /// Lets [`GUEST`] do `operation` on a topic.
    pub fn allow(&self, operation: acl::rd_kafka_AclOperation_t, topic: &str) {
        let admin = self.admin();
        let client = admin.inner().native_ptr();
        let (name, who, host) = (c_string(topic), c_string(&format!("User:{GUEST}")), c_string("*"));
        // SAFETY: the strings and the client live to the end of the block; everything made is destroyed once.
        unsafe {
            let binding = acl::rd_kafka_AclBinding_new(
                acl::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
                name.as_ptr(),
                acl::rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_LITERAL,
                who.as_ptr(),
                host.as_ptr(),
                operation,
                acl::rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
                std::ptr::null_mut(),
                0,
            );
            assert!(!binding.is_null());
            let queue = acl::rd_kafka_queue_new(client);
            acl::rd_kafka_CreateAcls(client, [binding].as_mut_ptr(), 1, std::ptr::null(), queue);
            let event = acl::rd_kafka_queue_poll(queue, 30_000);
            assert!(!event.is_null(), "no answer");
            assert_eq!(acl::rd_kafka_event_error(event), acl::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
            acl::rd_kafka_event_destroy(event);
            acl::rd_kafka_queue_destroy(queue);
            acl::rd_kafka_AclBinding_destroy(binding);
        }
    }

    /// Changes a setting of a topic.
    pub fn alter_topic(&self, topic: &str, key: &str, value: &str) {
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(key, value);
        let results = block_on(self.admin().alter_configs([&change], &AdminOptions::new())).unwrap();
        results.into_iter().for_each(|result| drop(result.unwrap()));
    }

    /// Raises a topic's number of partitions.
    pub fn add_partitions(&self, topic: &str, partitions: i32) {
        let new = NewPartitions::new(topic, usize::try_from(partitions).unwrap());
        let results = block_on(self.admin().create_partitions([&new], &AdminOptions::new())).unwrap();
        results.into_iter().for_each(|result| drop(result.unwrap()));
        self.wait_for_partitions(topic, partitions);
    }

    /// Deletes a topic.
    pub fn delete_topic(&self, topic: &str) {
        let results = block_on(self.admin().delete_topics(&[topic], &AdminOptions::new())).unwrap();
        results.into_iter().for_each(|result| drop(result.unwrap()));
    }

    /// Deletes the records of partition `partition` below `offset`, as retention would.
    pub fn expire(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        block_on(self.admin().delete_records(&list, &AdminOptions::new())).unwrap();
    }

    /// Sends records to a partition and waits for their acknowledgement.
    pub fn produce(&self, topic: &str, partition: i32, payloads: impl IntoIterator<Item = impl AsRef<[u8]>>) {
        let producer: BaseProducer = self.config().set("linger.ms", "5").set("acks", "all").create().unwrap();
        send_all(&producer, topic, partition, None, payloads);
        producer.flush(PATIENCE).unwrap();
    }

    /// As [`RealKafka::produce`], all with the same key.
    pub fn produce_keyed(
        &self,
        topic: &str,
        partition: i32,
        key: &str,
        payloads: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) {
        let producer: BaseProducer = self.config().set("linger.ms", "5").set("acks", "all").create().unwrap();
        send_all(&producer, topic, partition, Some(key), payloads);
        producer.flush(PATIENCE).unwrap();
    }

    /// A producer of transactions.
    pub fn transactions(&self, transactional_id: &str) -> Transactions {
        let producer: BaseProducer = self.config().set("transactional.id", transactional_id).create().unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        Transactions { producer }
    }

    /// Every committed record of a topic, partition by partition in offset order: key and payload.
    pub fn read_committed(&self, topic: &str) -> Vec<(Option<Vec<u8>>, Vec<u8>)> {
        let consumer: BaseConsumer = self
            .config()
            .set("group.id", "test-reader")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
        let mut found = Vec::new();
        for partition in metadata.topics()[0].partitions() {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
            consumer.assign(&list).unwrap();
            loop {
                match consumer.poll(PATIENCE).expect("records or the partition's end") {
                    Ok(message) => {
                        found.push((message.key().map(<[u8]>::to_vec), message.payload().unwrap_or_default().to_vec()));
                    }
                    Err(KafkaError::PartitionEOF(_)) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        found
    }

    pub fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().unwrap()
    }

    fn wait_for_partitions(&self, topic: &str, partitions: i32) {
        let consumer: BaseConsumer = self.config().create().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
            let led = metadata.topics()[0].partitions().iter().filter(|found| found.leader() >= 0).count();
            if led == usize::try_from(partitions).unwrap() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("topic `{topic}` got no leaders");
    }

    fn wait_until_ready(&self) {
        let probe: BaseConsumer = self.config().set("reconnect.backoff.max.ms", "200").create().unwrap();
        let deadline = Instant::now() + READY;
        while Instant::now() < deadline {
            match probe.fetch_metadata(None, Duration::from_millis(500)) {
                Ok(metadata) if !metadata.brokers().is_empty() => return,
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        let log = std::fs::read_to_string(self.folder.path().join("log.txt")).unwrap_or_default();
        panic!("kafka did not start within {READY:?}:\n{log}");
    }
}

impl Drop for RealKafka {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Writes records in transactions.
pub struct Transactions {
    producer: BaseProducer,
}

impl Transactions {
    /// Records that read-committed readers see.
    pub fn commit(&self, topic: &str, partition: i32, payloads: impl IntoIterator<Item = impl AsRef<[u8]>>) {
        self.producer.begin_transaction().unwrap();
        send_all(&self.producer, topic, partition, None, payloads);
        self.producer.commit_transaction(PATIENCE).unwrap();
    }

    /// Records that are in the log but never seen.
    pub fn abort(&self, topic: &str, partition: i32, payloads: impl IntoIterator<Item = impl AsRef<[u8]>>) {
        self.producer.begin_transaction().unwrap();
        send_all(&self.producer, topic, partition, None, payloads);
        self.producer.flush(PATIENCE).unwrap();
        self.producer.abort_transaction(PATIENCE).unwrap();
    }
}

fn send_all(
    producer: &BaseProducer,
    topic: &str,
    partition: i32,
    key: Option<&str>,
    payloads: impl IntoIterator<Item = impl AsRef<[u8]>>,
) {
    for payload in payloads {
        loop {
            let mut record = BaseRecord::<str, [u8]>::to(topic).partition(partition).payload(payload.as_ref());
            record.key = key;
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    producer.poll(Duration::from_millis(5));
                }
                Err((error, _)) => panic!("{error}"),
            }
        }
    }
}

fn fetch_jars() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/kafka/fetch.sh");
    let fetched = Command::new(script).output().unwrap();
    if fetched.status.code() == Some(3) {
        eprintln!("######## SKIPPED: no real Kafka: {}", String::from_utf8_lossy(&fetched.stderr).trim());
        return None;
    }
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    Some(PathBuf::from(String::from_utf8(fetched.stdout).unwrap().trim()))
}

fn java(jars: &Path) -> Command {
    let mut command = Command::new("java");
    command
        .args(["-Xms128m", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        .arg("-cp")
        .arg(jars.join("*"));
    command
}

fn c_string(text: &str) -> std::ffi::CString {
    std::ffi::CString::new(text).unwrap()
}

struct Ports {
    broker: u16,
    login: u16,
    controller: u16,
}

impl Ports {
    fn free() -> Self {
        // All bound at once, so that no two are the same.
        let bound = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [broker, login, controller] = bound.map(|listener| listener.local_addr().unwrap().port());
        Self { broker, login, controller }
    }
}

fn server_properties(folder: &Path, ports: &Ports) -> String {
    let Ports { broker, login, controller } = ports;
    let data = folder.join("data");
    let module = "org.apache.kafka.common.security.plain.PlainLoginModule";
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},LOGIN://127.0.0.1:{login},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker},LOGIN://127.0.0.1:{login}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,LOGIN:SASL_PLAINTEXT
listener.name.login.sasl.enabled.mechanisms=PLAIN
listener.name.login.plain.sasl.jaas.config={module} required user_{USER}=\"{PASSWORD}\" user_{GUEST}=\"{PASSWORD}\";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:{USER}
log.dirs={}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
file.delete.delay.ms=100
log.cleaner.backoff.ms=200
",
        data.display()
    )
}
