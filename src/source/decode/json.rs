//! JSON records into columns, in one pass over the bytes.
//!
//! Fast if records resemble one another: the keys of the previous record are compared at their expected positions, and only
//! other keys are looked up by name. A record is kept only if it is valid as a whole; otherwise every column is truncated to
//! its length before the record.

use super::column::Column;
use super::fault::{Fault, Outcome};
use super::plan::{Match, Member, ObjectPlan};
use super::scan::{Cursor, Text};
use super::value;

/// Decodes the records of one chunk, one after the other.
#[derive(Debug)]
pub(super) struct JsonRows<'a> {
    plan: &'a ObjectPlan,
    nullable: &'a [bool],
    /// The columns so far; between records all have the same length.
    pub(super) columns: Vec<Column>,
    /// Per object plan: the keys of the last record, in their order.
    expected: Vec<Vec<Expected>>,
    /// Per object plan: the exact names found in the current object.
    objects: Vec<ObjectKeys>,
    /// Faults of single values in the current record; a later duplicate of the field clears its fault.
    faults: Vec<Blame>,
    row: usize,
}

/// A fault, with its column and the position of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blame {
    pub(super) column: Option<usize>,
    pub(super) fault: Fault,
    pub(super) at: usize,
}

/// A key of the last record, with both quotes.
#[derive(Debug, Default)]
struct Expected {
    key: Vec<u8>,
    target: Option<Match>,
}

/// The maximum number of keys of an object that are expected in the next: a longer object is no pattern, and may have
/// millions.
const MAX_EXPECTED: usize = 4_096;

/// The members of the current object that were found under their exact name.
#[derive(Debug, Default)]
struct ObjectKeys {
    /// Per member: the number of expected keys searched so far, and whether one of them, or a later key, is exact.
    seen: Vec<(usize, bool)>,
}

impl<'a> JsonRows<'a> {
    /// A decoder into `columns`, which are empty; `objects` is the number that [`ObjectPlan::new`] returned.
    pub(super) fn new(plan: &'a ObjectPlan, objects: usize, nullable: &'a [bool], columns: Vec<Column>) -> Self {
        let expected = std::iter::repeat_with(Vec::new).take(objects).collect();
        let objects = std::iter::repeat_with(ObjectKeys::default).take(objects).collect();
        Self { plan, nullable, columns, expected, objects, faults: Vec::new(), row: 0 }
    }

    /// Appends the record `data[start..end]` as a row. On an error nothing is appended.
    pub(super) fn record(&mut self, data: &[u8], start: usize, end: usize) -> Result<(), Blame> {
        let mut cursor = Cursor::new(data, start);
        let syntax = self.whole_object(&mut cursor, end);
        let blame = match syntax {
            Ok(()) => self.complete(),
            Err(_) if cursor.pos >= end => Err(record_fault(Fault::Syntax("JSON ends too early"), end)),
            Err(fault) => Err(record_fault(fault, cursor.pos)),
        };
        match blame {
            Ok(()) => self.row += 1,
            Err(_) => {
                self.columns.iter_mut().for_each(|column| column.truncate(self.row));
                self.faults.clear();
            }
        }
        blame
    }

    fn whole_object(&mut self, cursor: &mut Cursor<'_>, end: usize) -> Outcome {
        cursor.skip_whitespace();
        if cursor.peek() != b'{' {
            return Err(Fault::Syntax("JSON does not begin with an object"));
        }
        self.object(self.plan, cursor)?;
        if cursor.pos > end {
            return Err(Fault::Syntax("JSON ends too early"));
        }
        // This may read whitespace of the next record, which is harmless.
        cursor.skip_whitespace();
        if cursor.pos < end {
            return Err(Fault::Syntax("JSON is followed by something else"));
        }
        Ok(())
    }

    /// After a whole object: returns a fault of its values, or fills columns without a field.
    #[inline(always)]
    fn complete(&mut self) -> Result<(), Blame> {
        if let Some(first) = self.faults.iter().min_by_key(|blame| blame.column) {
            return Err(*first);
        }
        for (index, column) in self.columns.iter_mut().enumerate() {
            if column.len() == self.row {
                if !self.nullable[index] {
                    return Err(Blame { column: Some(index), fault: Fault::Missing, at: 0 });
                }
                column.push_null();
            }
        }
        Ok(())
    }

    /// Reads the object at the cursor.
    fn object(&mut self, plan: &'a ObjectPlan, cursor: &mut Cursor<'_>) -> Outcome {
        cursor.enter()?;
        if cursor.peek() == b'}' {
            cursor.leave();
            return Ok(());
        }
        self.objects[plan.id].seen.clear();
        let mut place = 0;
        loop {
            let target = self.key(plan, place, cursor)?;
            cursor.colon()?;
            match target {
                Some(target) => self.member(plan, target, place, cursor)?,
                None => cursor.skip_value()?,
            }
            if !cursor.next_or(b'}')? {
                return Ok(());
            }
            place += 1;
        }
    }

    /// Moves past the key at the cursor, the object's `place`-th, and returns the member that it feeds.
    #[inline(always)]
    fn key(&mut self, plan: &'a ObjectPlan, place: usize, cursor: &mut Cursor<'_>) -> Outcome<Option<Match>> {
        if let Some(expected) = self.expected[plan.id].get(place) {
            let end = cursor.pos + expected.key.len();
            if cursor.data.get(cursor.pos..end) == Some(&expected.key[..]) {
                cursor.pos = end;
                return Ok(expected.target);
            }
        }
        self.unexpected_key(plan, place, cursor)
    }

    #[inline(never)]
    fn unexpected_key(
        &mut self,
        plan: &'a ObjectPlan,
        place: usize,
        cursor: &mut Cursor<'_>,
    ) -> Outcome<Option<Match>> {
        if cursor.peek() != b'"' {
            return Err(Fault::Syntax("a field name is missing"));
        }
        let start = cursor.pos;
        let target = match cursor.string()? {
            Text::Plain(from, to) => plan.find(&cursor.data[from..to]),
            Text::Escaped(from, to) => {
                let mut name = Vec::new();
                super::text::unescape_into(&cursor.data[from..to], &mut name)?;
                plan.find(&name)
            }
        };
        let expected = &mut self.expected[plan.id];
        if place >= MAX_EXPECTED {
            if let Some(Match { member, exact: true }) = target {
                self.seen(plan, member).1 = true;
            }
            return Ok(target);
        }
        if place >= expected.len() {
            expected.push(Expected::default());
        }
        let slot = &mut expected[place];
        slot.key.clear();
        slot.key.extend_from_slice(&cursor.data[start..cursor.pos]);
        slot.target = target;
        Ok(target)
    }

    /// Reads the value at the cursor for a member.
    #[inline(always)]
    fn member(&mut self, plan: &'a ObjectPlan, target: Match, place: usize, cursor: &mut Cursor<'_>) -> Outcome {
        let member = &plan.members[target.member];
        if let ([index], None) = (&member.columns[..], &member.inside) {
            let column = &mut self.columns[*index];
            if column.len() == self.row && cursor.peek() != b'n' {
                let (start, depth) = (cursor.pos, cursor.depth());
                return match value::append(column, cursor) {
                    Ok(()) => Ok(()),
                    Err(fault) => self.refuse(*index, fault, start, depth, cursor),
                };
            }
        }
        self.unusual_member(plan, member, target, place, cursor)
    }

    /// Handles a field that is null, a duplicate, feeds several columns, or has wanted fields inside.
    #[inline(never)]
    fn unusual_member(
        &mut self,
        plan: &'a ObjectPlan,
        member: &'a Member,
        target: Match,
        place: usize,
        cursor: &mut Cursor<'_>,
    ) -> Outcome {
        if !target.exact && self.is_beaten(plan, target, place) {
            return cursor.skip_value();
        }
        member.each_column(&mut |index| {
            self.columns[index].truncate(self.row);
            self.faults.retain(|blame| blame.column != Some(index));
        });
        let (start, depth) = (cursor.pos, cursor.depth());
        if cursor.peek() == b'n' {
            cursor.word(b"null")?;
            for index in &member.columns {
                self.columns[*index].push_null();
                if !self.nullable[*index] {
                    self.faults.push(Blame { column: Some(*index), fault: Fault::Null, at: start });
                }
            }
            return Ok(());
        }
        for index in &member.columns {
            cursor.rewind(start, depth);
            if let Err(fault) = value::append(&mut self.columns[*index], cursor) {
                self.refuse(*index, fault, start, depth, cursor)?;
            }
        }
        let Some(inside) = &member.inside else { return Ok(()) };
        cursor.rewind(start, depth);
        if cursor.peek() == b'{' {
            return self.object(inside, cursor);
        }
        self.faults.push(Blame { column: member.first_inner_column(), fault: Fault::WrongType, at: start });
        cursor.skip_value()
    }

    /// `true` if an earlier field of the object has the exact name. Each key is examined once, however often this is called.
    fn is_beaten(&mut self, plan: &ObjectPlan, target: Match, place: usize) -> bool {
        let wanted = Some(Match { exact: true, ..target });
        let (from, found) = *self.seen(plan, target.member);
        let known = &self.expected[plan.id];
        let to = place.min(known.len());
        let found = found || known[from.min(to)..to].iter().any(|expected| expected.target == wanted);
        *self.seen(plan, target.member) = (to, found);
        found
    }

    fn seen(&mut self, plan: &ObjectPlan, member: usize) -> &mut (usize, bool) {
        let seen = &mut self.objects[plan.id].seen;
        if seen.len() <= member {
            seen.resize(plan.members.len(), (0, false));
        }
        &mut seen[member]
    }

    /// Records that a column refused the value at `start`, and moves past the value.
    #[cold]
    fn refuse(&mut self, index: usize, fault: Fault, start: usize, depth: u8, cursor: &mut Cursor<'_>) -> Outcome {
        if let Fault::Syntax(_) = fault {
            return Err(fault);
        }
        let column = &mut self.columns[index];
        column.truncate(self.row);
        column.push_null();
        self.faults.push(Blame { column: Some(index), fault, at: start });
        cursor.rewind(start, depth);
        cursor.skip_value()
    }
}

/// A fault of the record as a whole.
fn record_fault(fault: Fault, at: usize) -> Blame {
    Blame { column: None, fault, at }
}
