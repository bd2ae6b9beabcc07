//! Which field of a record feeds which column: a tree of names, since a column may read a path.

/// The fields of one object that somebody wants.
#[derive(Debug, Default)]
pub(super) struct ObjectPlan {
    pub(super) members: Vec<Member>,
    /// Its place among all object plans of the tree.
    pub(super) id: usize,
}

/// One wanted field.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    /// The columns that take the field's value; mostly one.
    pub(super) columns: Vec<usize>,
    /// The wanted fields inside it.
    pub(super) inside: Option<ObjectPlan>,
}

/// A member that a name stands for, and whether the name is exact or differs in case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) member: usize,
    pub(super) exact: bool,
}

impl ObjectPlan {
    /// The plan that reads `paths[i]` into column `i`, and how many objects it holds.
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
        let index = self.members.iter().position(|member| member.name == *name).unwrap_or_else(|| {
            self.members.push(Member { name: name.clone(), columns: Vec::new(), inside: None });
            self.members.len() - 1
        });
        let member = &mut self.members[index];
        if rest.is_empty() {
            member.columns.push(column);
            return;
        }
        let inside = member.inside.get_or_insert_with(|| {
            *objects += 1;
            Self { members: Vec::new(), id: *objects - 1 }
        });
        inside.add(rest, column, objects);
    }

    /// The member that `name` stands for: by exact name, else ignoring case.
    pub(super) fn find(&self, name: &[u8]) -> Option<Match> {
        let position =
            |test: &dyn Fn(&[u8]) -> bool| self.members.iter().position(|member| test(member.name.as_bytes()));
        position(&|own| own == name)
            .map(|member| Match { member, exact: true })
            .or_else(|| position(&|own| same_ignoring_case(own, name)).map(|member| Match { member, exact: false }))
    }
}

impl Member {
    /// The columns that this member and those inside it feed.
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
