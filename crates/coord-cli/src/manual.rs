//! `coord completions` and `coord man`: what a shell and `man` want to know of the others.

use anyhow::Context as _;
use clap::Args;
use clap_complete::Shell;

use crate::end::End;

/// Print completions for a shell.
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
    pub(crate) fn run(&self, mut program: clap::Command) -> Result<(), End> {
        clap_complete::generate(self.shell, &mut program, "coord", &mut std::io::stdout());
        Ok(())
    }
}

/// Print a page for `man`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  coord man > /usr/local/share/man/man1/coord.1
  coord man lock | man -l -")]
pub(crate) struct Man {
    /// The subcommand; without one, the page of the program
    #[arg(value_name = "SUBCOMMAND")]
    subcommand: Option<String>,
}

impl Man {
    pub(crate) fn run(&self, mut program: clap::Command) -> Result<(), End> {
        program.build();
        let of = match &self.subcommand {
            None => program,
            Some(name) => {
                let found = program.find_subcommand(name).cloned();
                found.ok_or_else(|| End::misused(format!("there is no subcommand {name:?}")))?
            }
        };
        let page = clap_mangen::Man::new(of);
        page.render(&mut std::io::stdout()).context("standard output")?;
        Ok(())
    }
}
