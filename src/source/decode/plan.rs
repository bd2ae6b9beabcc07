//! Assigns the fields of a record to columns: a tree of names, since a column may read a path.

use std::collections::HashMap;

/// The fields of one object that columns read.
#[derive(Debug, Default)]
pub(super) struct ObjectPlan {
    pub(super) members: Vec<Member>,
    names: Names,
    /// Its number among all object plans of the tree.
    pub(super) id: usize,
}

/// Names and their indices, found in constant time: a record may have a million names that no column reads.
#[derive(Debug, Default)]
pub(super) struct Names {
    in_order: Vec<Box<[u8]>>,
    exact: HashMap<Box<[u8]>, usize>,
    /// Indices by the name in lower case; several names may share one.
    folded: HashMap<Box<[u8]>, Vec<usize>>,
}

/// Up to this number of names, comparing with each is faster than hashing.
const FEW: usize = 16;

/// A field that columns read.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    /// The columns that read the field's value; usually one.
    pub(super) columns: Vec<usize>,
    /// The fields read inside it.
    pub(super) inside: Option<ObjectPlan>,
}

/// The member found for a name; `exact` if the name does not differ in case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) member: usize,
    pub(super) exact: bool,
}

impl ObjectPlan {
    /// The plan that reads `paths[i]` into column `i`, and the number of objects in it.
    pub(super) fn new<'a>(paths: impl Iterator<Item = &'a [String]>) -> (Self, usize) {
        let mut root = Self::default();
        let mut objects = 1;
        for (column, path) in paths.enumerate() {
            root.add(path, column, &mut objects);
        }
        (root, objects)
    }

    fn add(&mut self, path: &[String], column: usize, objects: &mut usize) {
        let [name, rest @ ..] = path else { return };
        let index = self.names.exact.get(name.as_bytes()).copied().unwrap_or_else(|| {
            self.members.push(Member { name: name.clone(), columns: Vec::new(), inside: None });
            self.names.push(name.as_bytes())
        });
        let member = &mut self.members[index];
        if rest.is_empty() {
            member.columns.push(column);
            return;
        }
        let inside = member.inside.get_or_insert_with(|| {
            *objects += 1;
            Self { id: *objects - 1, ..Self::default() }
        });
        inside.add(rest, column, objects);
    }

    /// The member for `name`: by exact name, else ignoring case.
    pub(super) fn find(&self, name: &[u8]) -> Option<Match> {
        let same = |index: usize| same_ignoring_case(self.members[index].name.as_bytes(), name);
        self.names.find(name, same).map(|(member, exact)| Match { member, exact })
    }
}

impl Names {
    /// Names in their order; of equal ones the first counts.
    pub(super) fn of<'a>(names: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut found = Self::default();
        for name in names {
            found.push(name);
        }
        found
    }

    fn push(&mut self, name: &[u8]) -> usize {
        let place = self.in_order.len();
        self.in_order.push(name.into());
        self.exact.entry(name.into()).or_insert(place);
        self.folded.entry(fold(name)).or_default().push(place);
        place
    }

    /// The index of `name`, and true if it is exact; else the index of the first name for which `same` holds among those
    /// that are equal in lower case.
    pub(super) fn find(&self, name: &[u8], same: impl Fn(usize) -> bool) -> Option<(usize, bool)> {
        if self.in_order.len() <= FEW {
            let exact = self.in_order.iter().position(|known| **known == *name).map(|place| (place, true));
            return exact.or_else(|| (0..self.in_order.len()).find(|place| same(*place)).map(|place| (place, false)));
        }
        if let Some(place) = self.exact.get(name) {
            return Some((*place, true));
        }
        self.folded.get(&fold(name))?.iter().copied().find(|place| same(*place)).map(|place| (place, false))
    }
}

fn fold(name: &[u8]) -> Box<[u8]> {
    match std::str::from_utf8(name) {
        Ok(text) if !text.is_ascii() => text.to_lowercase().into_bytes().into(),
        _ => name.to_ascii_lowercase().into(),
    }
}

impl Member {
    /// Visits the columns that this member and those inside it feed.
    pub(super) fn each_column(&self, visit: &mut impl FnMut(usize)) {
        self.columns.iter().for_each(|column| visit(*column));
        for member in self.inside.iter().flat_map(|inside| &inside.members) {
            member.each_column(visit);
        }
    }

    /// The first column fed by a field inside this one.
    pub(super) fn first_inner_column(&self) -> Option<usize> {
        let mut first = None;
        for member in self.inside.iter().flat_map(|inside| &inside.members) {
            member.each_column(&mut |column| first = Some(first.map_or(column, |known: usize| known.min(column))));
        }
        first
    }
}

fn same_ignoring_case(one: &[u8], other: &[u8]) -> bool {
    one.eq_ignore_ascii_case(other)
        || match (std::str::from_utf8(one), std::str::from_utf8(other)) {
            (Ok(one), Ok(other)) => !one.is_ascii() && one.to_lowercase() == other.to_lowercase(),
            _ => false,
        }
}
