//! The relations that a query names.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{ObjectName, ObjectNamePart, Query, TableFactor, Visit, Visitor};

/// The relations that a query reads, names folded, in order; table functions (`HOP(…)`) are not among them.
pub fn relations(query: &Query) -> Vec<String> {
    let mut found = Found::default();
    let _ = query.visit(&mut found);
    found.names
}

#[derive(Default)]
struct Found {
    names: Vec<String>,
    /// True if the next name is that of a table function.
    is_function: bool,
}

impl Visitor for Found {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        self.is_function = matches!(factor, TableFactor::Table { args: Some(_), .. });
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let is_function = std::mem::take(&mut self.is_function);
        if let Some(ObjectNamePart::Identifier(ident)) = relation.0.last().filter(|_| !is_function) {
            let folded = ident.quote_style.is_none().then(|| ident.value.to_lowercase());
            self.names.push(folded.unwrap_or_else(|| ident.value.clone()));
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::embedded;
    use crate::sql::lexer::tokenize;

    #[test]
    fn a_table_function_is_no_relation_and_what_it_reads_is() {
        for (text, names) in [
            ("SELECT * FROM HOP(TABLE e, DESCRIPTOR(ts), INTERVAL '1 minute', INTERVAL '2 minutes')", vec!["e"]),
            (
                "SELECT * FROM hop JOIN Tumble(TABLE \"E\", DESCRIPTOR(ts), INTERVAL '1 minute') ON true",
                vec!["hop", "E"],
            ),
            (
                "SELECT * FROM SESSION((SELECT * FROM hop), DESCRIPTOR(ts), INTERVAL '1 minute'), session",
                vec!["hop", "session"],
            ),
            ("SELECT 1 FROM a WHERE EXISTS (SELECT 1 FROM b)", vec!["a", "b"]),
        ] {
            let query = embedded::query(&tokenize(text, 0, &mut Vec::new())).unwrap();
            assert_eq!(relations(&query), names, "{text}");
        }
    }
}
