//! `coord completions` and `coord man`: shell completions and manual pages of the subcommands.

use std::io::{self, Write as _};

use anyhow::Context as _;
use clap::Args;
use clap_complete::Shell;
use clap_mangen::Man as Page;

use crate::exit::{ExitError, print};

/// Print the completion script of a shell.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  coord completions bash > /etc/bash_completion.d/coord
  coord completions zsh > \"${fpath[1]}/_coord\"
  coord completions fish > ~/.config/fish/completions/coord.fish")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self, mut program: clap::Command) -> Result<(), ExitError> {
        // Into memory first: clap panics if standard output is closed.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut program, "coord", &mut script);
        print(String::from_utf8_lossy(&script).trim_end())?;
        Ok(())
    }
}

/// Print a manual page.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  coord man > /usr/local/share/man/man1/coord.1
  coord man lock | man -l -
  coord man bench raw-put | man -l -")]
pub(crate) struct Man {
    /// The subcommand, or `bench` and a workload; without one, the page of `coord` itself
    #[arg(value_name = "SUBCOMMAND")]
    subcommand: Vec<String>,
}

impl Man {
    pub(crate) fn run(&self, mut program: clap::Command) -> Result<(), ExitError> {
        program.build();
        let mut of = &program;
        for name in &self.subcommand {
            let found = of.find_subcommand(name);
            of = found.ok_or_else(|| {
                ExitError::usage(format!("unknown subcommand {name:?}: see `coord help`"))
            })?;
        }
        let page = page(of.clone()).context("manual page")?;
        print(String::from_utf8_lossy(&page).trim_end())?;
        Ok(())
    }
}

/// The manual page of a subcommand, as clap renders it, with two corrections: of the synopsis and
/// of the examples.
fn page(mut of: clap::Command) -> io::Result<Vec<u8>> {
    let usage = of.render_usage().to_string();
    let page = Page::new(of.clone()).source(concat!("coord ", env!("CARGO_PKG_VERSION")));
    let mut out = Vec::new();
    page.render_title(&mut out)?;
    page.render_name_section(&mut out)?;
    // clap_mangen omits the `--` before a command.
    let usage = usage.trim_start_matches("Usage: ").replace('-', "\\-");
    writeln!(out, ".SH SYNOPSIS\n{usage}")?;
    page.render_description_section(&mut out)?;
    page.render_options_section(&mut out)?;
    if of.has_subcommands() {
        page.render_subcommands_section(&mut out)?;
    }
    if of.get_after_long_help().or(of.get_after_help()).is_some() {
        // clap_mangen fills paragraphs, which would join the lines of examples and tables.
        let mut extra = Vec::new();
        page.render_extra_section(&mut extra)?;
        let extra = String::from_utf8_lossy(&extra);
        writeln!(out, "{}.fi", extra.replacen(".SH EXTRA\n", ".SH EXTRA\n.nf\n", 1))?;
    }
    Ok(out)
}
