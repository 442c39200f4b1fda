//! How text looks: tables without lines, bold headings, colours only where they are wanted.

use std::borrow::Cow;
use std::io::{self, IsTerminal};

use clap::ColorChoice;
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Row, Table, Width, presets,
};

use crate::units::Units;

/// What the output can show.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Escape sequences are wanted.
    pub color: bool,
    /// Characters in a line of the terminal; None where the output is none or does not say.
    pub width: Option<u16>,
    /// The output is a terminal.
    pub terminal: bool,
    /// How quantities are printed.
    pub units: Units,
}

/// Where a column's content stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// How a text stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Not at all.
    Plain,
    /// A heading.
    Heading,
    /// All is well.
    Good,
    /// Worth a look.
    Warning,
    /// Something is wrong.
    Bad,
}

impl Style {
    /// The style for standard output.
    pub fn of_stdout(color: ColorChoice, units: Units) -> Self {
        let terminal = io::stdout().is_terminal();
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let color = match color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && !unwanted,
        };
        // Some terminals do not know their size and say 0.
        let width = if terminal {
            Table::new().width().filter(|width| *width > 0)
        } else {
            None
        };
        Self {
            color,
            width,
            terminal,
            units,
        }
    }

    /// Without colour, of any width.
    #[cfg(test)]
    pub fn plain(units: Units) -> Self {
        Self {
            color: false,
            width: None,
            terminal: false,
            units,
        }
    }

    /// `text` in `tone`.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            _ if !self.color => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Heading => "1",
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "1;31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// An empty table with `columns`. Its lines are as long as they are: numbers broken in two help nobody.
    pub fn table(&self, columns: &[(&str, Align)]) -> Grid {
        let mut table = self.bare();
        table.set_header(
            columns
                .iter()
                .map(|(name, _)| Cell::new(name).add_attribute(Attribute::Bold)),
        );
        for (index, (_, align)) in columns.iter().enumerate() {
            if let (Align::Right, Some(column)) = (align, table.column_mut(index)) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Grid { table }
    }

    /// An empty table without a header, its lines as long as they are.
    pub fn columns(&self) -> Grid {
        Grid { table: self.bare() }
    }

    /// An empty table of names and values. Lists too long for the terminal go on below themselves.
    pub fn pairs(&self) -> Pairs {
        Pairs {
            grid: self.columns(),
            rows: Vec::new(),
            width: self.width,
        }
    }

    fn bare(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if self.color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_content_arrangement(ContentArrangement::Disabled);
        table
    }
}

/// A table that is being filled.
pub struct Grid {
    table: Table,
}

impl Grid {
    /// Adds a row of plain cells.
    pub fn row<T: ToString>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.table.add_row(Row::from(
            cells
                .into_iter()
                .map(|cell| Cell::new(cell.to_string()))
                .collect::<Vec<_>>(),
        ));
    }

    /// Adds a row of cells that may stand out.
    pub fn toned_row(&mut self, cells: impl IntoIterator<Item = (String, Tone)>) {
        let cell = |(text, tone): (String, Tone)| match tone {
            Tone::Plain => Cell::new(text),
            Tone::Heading => Cell::new(text).add_attribute(Attribute::Bold),
            Tone::Good => Cell::new(text).fg(Color::Green),
            Tone::Warning => Cell::new(text).fg(Color::Yellow),
            Tone::Bad => Cell::new(text).fg(Color::Red).add_attribute(Attribute::Bold),
        };
        self.table
            .add_row(Row::from(cells.into_iter().map(cell).collect::<Vec<_>>()));
    }

    /// Makes a column at least `width` characters wide, so that tables below each other line up.
    pub fn at_least(&mut self, column: usize, width: usize) {
        // The blanks between columns count.
        let width = u16::try_from(width.saturating_add(2)).unwrap_or(u16::MAX);
        if let Some(column) = self.table.column_mut(column) {
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width)));
        }
    }

    /// The lines, each without blanks at its end and with `indent` blanks before it, each ended by a newline.
    pub fn lines(self, indent: usize) -> String {
        self.lines_apart(indent, 2)
    }

    /// [`Self::lines`] with `gap` blanks between columns.
    pub fn lines_apart(mut self, indent: usize, gap: u16) -> String {
        // Only behind a cell: a coloured cell starts with its escape sequence, and a blank behind that would stay.
        for column in self.table.column_iter_mut() {
            column.set_padding((0, gap));
        }
        let mut out = String::new();
        for line in self.table.lines() {
            out.push_str(&" ".repeat(indent));
            out.push_str(&without_blanks_at_the_end(&line));
            out.push('\n');
        }
        out
    }
}

/// Names and values that are being collected.
pub struct Pairs {
    grid: Grid,
    rows: Vec<[String; 2]>,
    width: Option<u16>,
}

impl Pairs {
    /// Adds a name and its value.
    pub fn row(&mut self, row: [String; 2]) {
        self.rows.push(row);
    }

    /// The lines, as [`Grid::lines`].
    pub fn lines(mut self, indent: usize) -> String {
        let names = self.rows.iter().map(|[name, _]| name.chars().count()).max();
        let taken = names.unwrap_or(0) + indent + 2;
        for [name, value] in self.rows {
            let value = match self.width {
                Some(width) => wrapped(&value, usize::from(width).saturating_sub(taken)),
                None => value,
            };
            self.grid.row([name, value]);
        }
        self.grid.lines(indent)
    }
}

/// `list` in lines of at most `width` characters where its commas allow that: what stands between two of them is one
/// value, which is not taken apart.
fn wrapped(list: &str, width: usize) -> String {
    let mut out = String::new();
    let mut used = 0;
    for item in list.split_inclusive(", ") {
        let length = item.trim_end().chars().count();
        if used > 0 && used + length > width {
            out.truncate(out.trim_end().len());
            out.push('\n');
            used = 0;
        }
        out.push_str(item);
        used += item.chars().count();
    }
    out
}

/// `line` without the blanks at its end, also those inside its last colour.
fn without_blanks_at_the_end(line: &str) -> String {
    let mut text = line.trim_end();
    let mut resets = String::new();
    while let Some((before, reset)) = text.rfind('\x1b').and_then(|start| text.split_at_checked(start)) {
        if color_sequence(reset) != Some(reset.len()) {
            break;
        }
        resets.insert_str(0, reset);
        text = before;
    }
    format!("{}{resets}", text.trim_end())
}

/// How a controller's state stands out. An unknown one is no reason for alarm.
pub fn tone_of_state(state: &str) -> Tone {
    match state {
        "ready" => Tone::Good,
        "failed" | "removed" => Tone::Bad,
        "resetting" => Tone::Warning,
        _ => Tone::Plain,
    }
}

/// `text` without what could make a terminal do things: a device's or a driver's words may contain anything. Newlines
/// stay, and where `colored` so do the escape sequences that only set colours; every other control character is a `?`.
pub fn printable(text: &str, colored: bool) -> Cow<'_, str> {
    if !text.contains(|c: char| c.is_control() && c != '\n') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = match color_sequence(rest) {
            Some(length) if colored => length,
            _ => first.len_utf8(),
        };
        let (part, after) = rest.split_at(taken);
        let harmless = taken > first.len_utf8() || !first.is_control() || first == '\n';
        out.push_str(if harmless { part } else { "?" });
        rest = after;
    }
    Cow::Owned(out)
}

/// The length of the sequence `ESC [ digits and semicolons m` that `text` starts with.
fn color_sequence(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters.get(end..)?.starts_with('m').then_some(end + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_without_blanks_at_the_end() {
        let style = Style::plain(Units::Iec);
        let mut grid = style.table(&[("NAME", Align::Left), ("SIZE", Align::Right)]);
        grid.row(["a", "1"]);
        grid.row(["longer", "1000000"]);
        assert_eq!(
            grid.lines(2),
            "  NAME       SIZE\n  a             1\n  longer  1000000\n"
        );
    }

    #[test]
    fn no_escape_is_written_without_colour() {
        let mut style = Style::plain(Units::Iec);
        assert_eq!(style.paint(Tone::Bad, "x"), "x");
        let mut grid = style.columns();
        grid.toned_row([("x".to_owned(), Tone::Bad)]);
        assert_eq!(grid.lines(0), "x\n");

        style.color = true;
        assert_eq!(style.paint(Tone::Bad, "x"), "\u{1b}[1;31mx\u{1b}[0m");
        let mut grid = style.columns();
        grid.toned_row([("x".to_owned(), Tone::Bad)]);
        assert!(grid.lines(0).contains('\u{1b}'));
    }

    #[test]
    fn colours_do_not_move_columns() {
        let mut style = Style::plain(Units::Iec);
        let mut printed = |color| {
            style.color = color;
            let mut grid = style.table(&[
                ("STATE", Align::Left),
                ("SIZE", Align::Right),
                ("LAST", Align::Left),
            ]);
            for (state, tone) in [
                ("ready", Tone::Good),
                ("resetting", Tone::Bad),
                ("x", Tone::Plain),
            ] {
                grid.toned_row([
                    (state.to_owned(), tone),
                    ("1.00GiB".to_owned(), tone),
                    (state.to_owned(), tone),
                ]);
            }
            grid.lines(2)
        };
        let (plain, mut colored) = (printed(false), printed(true));
        assert!(colored.contains('\x1b'), "{colored:?}");
        while let Some(start) = colored.find('\x1b') {
            let length = color_sequence(&colored[start..]).unwrap();
            colored.replace_range(start..start + length, "");
        }
        assert_eq!(colored, plain);
    }

    #[test]
    fn a_value_is_never_taken_apart() {
        let mut style = Style::plain(Units::Iec);
        style.width = Some(24);
        let mut pairs = style.pairs();
        pairs.row(["capacity".into(), "1.00GiB (1 073 741 824)".into()]);
        pairs.row(["flags".into(), "one flag, another, a third".into()]);
        assert_eq!(
            pairs.lines(0),
            "capacity  1.00GiB (1 073 741 824)\n\
             flags     one flag,\n          another,\n          a third\n"
        );
        let numbers = ["1000000000", "2000000000", "3000000000"];
        let mut grid = style.table(&[("A", Align::Right), ("B", Align::Right), ("C", Align::Right)]);
        grid.row(numbers);
        assert_eq!(grid.lines(0).lines().nth(1).unwrap(), numbers.join("  "));
    }

    #[test]
    fn nothing_from_outside_reaches_the_terminal_as_a_command() {
        for (text, plain, colored) in [
            ("A disk\n", "A disk\n", "A disk\n"),
            ("\x1b[1;31mred\x1b[0m", "?[1;31mred?[0m", "\x1b[1;31mred\x1b[0m"),
            ("\x1b]0;title\x07", "?]0;title?", "?]0;title?"),
            ("\x1b[2J\x1b[", "?[2J?[", "?[2J?["),
            ("a\rb\tc\u{9b}m", "a?b?c?m", "a?b?c?m"),
            ("\u{fc}\x1b[m", "\u{fc}?[m", "\u{fc}\x1b[m"),
        ] {
            assert_eq!(printable(text, false), plain, "{text:?}");
            assert_eq!(printable(text, true), colored, "{text:?}");
        }
    }
}
