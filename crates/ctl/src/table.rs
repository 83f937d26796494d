use std::fmt;

use coordd_process::plain;

/// Rows under headings, for people. The columns are as wide as what is in them.
pub(crate) struct Table<const COLUMNS: usize> {
    /// The headings first.
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(crate) fn new(headings: [&str; COLUMNS]) -> Self {
        Self { rows: vec![headings.map(str::to_owned)] }
    }

    /// What is in a cell is one line, and printable.
    pub(crate) fn row(&mut self, row: [String; COLUMNS]) {
        self.rows.push(row.map(|cell| plain(&cell).into_owned()));
    }
}

impl<const COLUMNS: usize> fmt::Display for Table<COLUMNS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut table = Table::new(["ID", "STATUS"]);
        table.row(["größer".into(), "ok".into()]);
        assert_eq!(table.to_string(), "ID      STATUS\ngrößer  ok\n");
    }
}
