//! Rules for the vocabulary: the glossary names existing items, and retired words stay out.

use std::collections::{BTreeMap, BTreeSet};

use super::{assert_none, files, pages, quoted_under, read, sources};

/// Every type and function that the glossary names exists in the crates.
#[test]
fn glossary_names_existing_items() {
    let page = read("docs/glossary.md");
    let code: String = files("crates", ".rs").into_iter().map(|(_, text)| text).collect();
    let mut violations = Vec::new();
    let names = quoted_under(&page, &["in the code"]);
    assert!(names.len() > 30, "the glossary names only {} items", names.len());
    for name in names {
        let definitions = [
            format!("struct {name}"),
            format!("enum {name}"),
            format!("trait {name}"),
            format!("type {name}"),
            format!("fn {name}"),
            // A variant of an enum.
            format!("    {name},"),
            format!("    {name} {{"),
            format!("    {name}("),
        ];
        if !definitions.iter().any(|definition| code.contains(definition)) {
            violations.push(format!("docs/glossary.md: `{name}` does not exist"));
        }
    }
    assert_none(&violations);
}

#[test]
fn glossary_has_one_entry_per_term_and_at_most_sixty() {
    let page = read("docs/glossary.md");
    let cells = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let terms: Vec<_> = cells.filter(|cell| *cell != "term").collect();
    assert!((30..=60).contains(&terms.len()), "{} terms", terms.len());
    let mut seen = BTreeSet::new();
    let synonyms = terms.iter().flat_map(|terms| terms.split(", "));
    let repeated: Vec<_> = synonyms.filter(|term| !seen.insert(*term)).collect();
    assert!(repeated.is_empty(), "terms with two entries: {repeated:?}");
}

/// Words that a standard term replaced, or that hide the subject of a sentence.
#[test]
fn retired_words_stay_out() {
    let list = read("tests/data/retired-words.csv");
    let words: BTreeMap<_, _> = list
        .lines()
        .skip(1)
        .map(|row| row.split_once(',').expect("a row has two columns"))
        .collect();
    assert!(words.len() > 30, "the list has only {} words", words.len());
    let mut violations = Vec::new();
    for (name, text) in [sources(), pages()].concat() {
        for (number, line) in (1..).zip(text.lines()) {
            for word in line.split(|c: char| !c.is_alphanumeric() && c != '_') {
                if let Some(instead) = words.get(word) {
                    violations.push(format!("{name}:{number}: `{word}`: {instead}"));
                }
            }
        }
    }
    assert_none(&violations);
}

#[test]
fn function_names_have_at_most_sixty_characters() {
    let mut violations = Vec::new();
    for (name, text) in sources() {
        for function in text.split("fn ").skip(1) {
            let length = function.chars().take_while(|c| c.is_alphanumeric() || *c == '_').count();
            if length > 60 {
                violations.push(format!("{name}: {length} characters: {}", &function[..length]));
            }
        }
    }
    assert_none(&violations);
}
