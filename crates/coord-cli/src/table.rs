//! Tables with aligned columns, for `coord who`, `coord list` and `coord members`.

/// Formats the rows as lines. Columns of numbers are aligned to the right, others to the left.
pub(crate) fn align<const N: usize>(rows: &[[String; N]], is_number: [bool; N]) -> String {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(widths).zip(is_number);
        let cells: Vec<_> = cells
            .map(|((cell, width), is_number)| match is_number {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            })
            .collect();
        cells.join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_without_trailing_spaces() {
        let rows = [["name", "n", "key"], ["größer", "12", ""], ["a", "7", "a/1"]];
        let table = align(&rows.map(|row| row.map(str::to_owned)), [false, true, false]);
        assert_eq!(table, "name     n  key\ngrößer  12\na        7  a/1");
    }
}
