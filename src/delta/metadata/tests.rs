use super::*;
use crate::catalog::{ColumnDef, ColumnOrigin};

fn def(columns: &[(&str, DataType)], properties: &[(&str, &str)]) -> TableDef {
    let column = |(name, data_type): &(&str, DataType)| ColumnDef {
        name: (*name).to_owned(),
        data_type: data_type.clone(),
        nullable: true,
        origin: ColumnOrigin::Field(vec![(*name).to_owned()]),
        span: Default::default(),
    };
    TableDef {
        name: "t".to_owned(),
        columns: columns.iter().map(column).collect(),
        partitioned_by: Vec::new(),
        location: None,
        properties: properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        storage: BTreeMap::new(),
        primary_key: Vec::new(),
        checks: Vec::new(),
        span: Default::default(),
    }
}

fn env() -> Env {
    Env::manual(0, 1)
}

fn protocol(def: &TableDef) -> Value {
    creation_actions(def, &env()).unwrap().0
}

#[expect(clippy::needless_pass_by_value, reason = "literals at every call")]
/// A table as another engine may have made it: one nullable BIGINT column with this field metadata.
fn foreign(protocol: Value, field_metadata: Value, configuration: Value) -> TableMetadata {
    let field = json!({ "name": "A b", "type": "long", "nullable": true, "metadata": field_metadata });
    let schema = json!({ "type": "struct", "fields": [field] }).to_string();
    let metadata = json!({ "id": "x", "schemaString": schema, "partitionColumns": [], "configuration": configuration });
    TableMetadata::read("t", &protocol, &metadata).unwrap()
}

fn legacy() -> Value {
    json!({ "minReaderVersion": 1, "minWriterVersion": 6 })
}

fn reason(metadata: &TableMetadata) -> Option<String> {
    metadata.check_appendable("t").err().and_then(|error| error.detail().map(str::to_owned))
}

#[test]
fn a_new_table_asks_for_the_lowest_protocol_that_does() {
    let plain = [("a", DataType::Utf8)];
    let ntz = [("a", DataType::Timestamp(TimeUnit::Microsecond, None))];
    assert_eq!(protocol(&def(&plain, &[])), json!({ "minReaderVersion": 1, "minWriterVersion": 2 }));
    let checked = [("delta.constraints.c", "a > 0")];
    assert_eq!(protocol(&def(&plain, &checked))["minWriterVersion"], 3);
    let fed = [("delta.enableChangeDataFeed", "TRUE")];
    assert_eq!(protocol(&def(&plain, &fed))["minWriterVersion"], 4);
    let newest = protocol(&def(&ntz, &[fed[0], checked[0]]));
    assert_eq!(newest["readerFeatures"], json!(["timestampNtz"]));
    let writer = ["appendOnly", "invariants", "checkConstraints", "changeDataFeed", "timestampNtz"];
    assert_eq!(newest["writerFeatures"], json!(writer));
}

#[test]
fn types_come_back_as_they_were_declared() {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let list = DataType::new_list(DataType::Utf8, true);
    let columns =
        [("s", DataType::Utf8), ("ts", utc), ("d", DataType::Date32), ("l", list), ("n", DataType::Decimal128(10, 2))];
    let def = def(&columns, &[]);
    let (protocol, metadata) = creation_actions(&def, &env()).unwrap();
    let read = TableMetadata::read("t", &protocol, &metadata).unwrap();
    read.check_declaration(&def).unwrap();
    assert_eq!(read.schema.field(1).data_type(), &columns[1].1);
    let interval = DataType::Interval(arrow::datatypes::IntervalUnit::DayTime);
    let error = creation_actions(&self::def(&[("i", interval)], &[]), &env()).unwrap_err();
    assert_eq!(error.message(), "table `t` has a column type that Delta does not know");
}

#[test]
fn a_partition_column_must_exist() {
    let mut def = def(&[("a", DataType::Utf8)], &[]);
    def.partitioned_by = vec!["b".to_owned()];
    let error = creation_actions(&def, &env()).unwrap_err();
    assert_eq!(error.message(), "table `t` is partitioned by unknown column `b`");
}

#[test]
fn what_an_append_cannot_honour_is_refused_with_its_reason() {
    let modern = |features: &[&str]| {
        let both = json!(features);
        foreign(
            json!({ "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": [], "writerFeatures": both }),
            json!({}),
            json!({}),
        )
    };
    assert_eq!(reason(&foreign(legacy(), json!({}), json!({}))), None);
    assert_eq!(reason(&modern(&["appendOnly", "deletionVectors", "v2Checkpoint"])), None);
    assert_eq!(reason(&modern(&["rowTracking"])).unwrap(), "The table needs the feature `rowTracking`.");
    let mapped = foreign(legacy(), json!({}), json!({ "delta.columnMapping.mode": "name" }));
    assert_eq!(reason(&mapped).unwrap(), "The table maps its columns (`delta.columnMapping.mode` = `name`).");
    let identity = foreign(legacy(), json!({ "delta.identity.start": 1 }), json!({}));
    assert_eq!(reason(&identity).unwrap(), "The table has identity columns.");
    let newer = foreign(json!({ "minReaderVersion": 4, "minWriterVersion": 8 }), json!({}), json!({}));
    assert_eq!(reason(&newer).unwrap(), "The table needs reader version 4 and writer version 8.");
}

#[test]
fn invariants_and_generated_columns_are_rules() {
    let invariant = json!({ "delta.invariants": r#"{"expression":{"expression":"`A b` > 3"}}"# });
    let rules = foreign(legacy(), invariant, json!({ "delta.constraints.small": "`A b` < 9" })).rules;
    assert_eq!(rules, [Rule::condition("small", "`A b` < 9"), Rule::condition("invariant of A b", "`A b` > 3")]);
    let generated = foreign(legacy(), json!({ "delta.generationExpression": "1 + 1" }), json!({})).rules;
    let rule = Rule { generates: Some("A b".to_owned()), ..Rule::condition("generated column A b", "1 + 1") };
    assert_eq!(generated, [rule]);
}

#[test]
fn a_successor_may_add_optional_columns_and_properties_only() {
    let read = |def: &TableDef| {
        let (protocol, metadata) = creation_actions(def, &env()).unwrap();
        TableMetadata::read("t", &protocol, &metadata).unwrap()
    };
    let old = read(&def(&[("a", DataType::Utf8)], &[]));
    let fits = |next: &TableDef| old.check_successor("t", &read(next)).is_ok();
    assert!(fits(&def(&[("a", DataType::Utf8), ("b", DataType::Int64)], &[("weir.x", "1")])));
    assert!(!fits(&def(&[("b", DataType::Utf8)], &[])));
    assert!(!fits(&def(&[("a", DataType::Int64)], &[])));
    assert!(!fits(&def(&[("a", DataType::Utf8)], &[("delta.constraints.c", "a > 'x'")])));
    let mut required = def(&[("a", DataType::Utf8), ("b", DataType::Int64)], &[]);
    required.columns[1].nullable = false;
    assert!(!fits(&required));
    let mut partitioned = def(&[("a", DataType::Utf8)], &[]);
    partitioned.partitioned_by = vec!["a".to_owned()];
    assert!(!fits(&partitioned));
}

#[test]
fn a_protocol_with_variants_is_written_as_long_as_no_column_is_one() {
    let features = json!(["variantType", "deletionVectors"]);
    let protocol = json!({
        "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features,
    });
    foreign(protocol.clone(), json!({}), json!({})).check_appendable("t").unwrap();
    let protocol = Protocol::deserialize(&protocol).unwrap();
    for schema in [r#"{"name":"a","type":"variant"}"#, r#"{"type": "array", "elementType": "variant"}"#] {
        assert_eq!(refusal(&protocol, &BTreeMap::new(), schema).as_deref(), Some("has columns of type VARIANT"));
    }
    assert_eq!(refusal(&protocol, &BTreeMap::new(), r#"{"name":"variant","type":"long"}"#), None);
}
