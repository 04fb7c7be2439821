//! A waiting line, seen from outside: `NAME/` and the keys directly below it.
//!
//! That is how coord and Go's package lay them out, for locks and elections alike: the line `jobs`
//! has the key `jobs/<lease in hex>`, with a number behind it if it is coord's. A key with another
//! slash in it belongs to another line, such as `jobs/night`.

/// The keys of a line.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    prefix: String,
}

impl Line {
    pub(crate) fn new(name: &str) -> Self {
        Self { prefix: format!("{name}/") }
    }

    /// What all keys of the line start with, and those of lines below it.
    pub(crate) fn prefix(&self) -> String {
        self.prefix.clone()
    }

    /// Whether a key belongs to this line.
    pub(crate) fn owns(&self, key: &[u8]) -> bool {
        let below = key.strip_prefix(self.prefix.as_bytes());
        below.is_some_and(|below| !below.contains(&b'/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_line_below_are_not_its_own() {
        let jobs = Line::new("jobs");
        assert!(jobs.owns(b"jobs/694d82a1-7") && jobs.owns(b"jobs/694d82a1"));
        assert!(!jobs.owns(b"jobs/night/694d82a1-7") && !jobs.owns(b"jobs2/694d82a1"));
    }
}
