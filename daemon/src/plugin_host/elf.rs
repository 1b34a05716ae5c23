//! What a file must be before `dlopen` sees it.
//!
//! The loader maps a file and touches its pages: one that was cut short
//! (a copy that did not finish) is a SIGBUS that ends the daemon. So each
//! program header must end inside the file.

use object::{
    LittleEndian,
    elf::{ELFDATA2LSB, ET_DYN, FileHeader64, Machine, PT_DYNAMIC, PT_INTERP, PT_LOAD},
    read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _},
};

/// Why a file cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ElfError {
    /// Not ELF at all, or not 64-bit little-endian.
    #[error("not a shared library (no 64-bit little-endian ELF header)")]
    NotElf,
    /// An object file, a core, an old-style program.
    #[error("an ELF file, but not a shared library")]
    NotALibrary,
    /// A program.
    #[error("a program, not a shared library")]
    Program,
    /// For another processor.
    #[error("a shared library for another processor than this machine's")]
    OtherMachine,
    /// Cut short, or damaged.
    #[error("the file is cut short or damaged ({0}): copy it anew")]
    Damaged(&'static str),
}

type Header = FileHeader64<LittleEndian>;

/// Checks that `bytes` is a library that can be mapped on this machine.
pub(super) fn check(bytes: &[u8]) -> Result<(), ElfError> {
    let header = header(bytes)?;
    if header.e_type(LittleEndian) != ET_DYN {
        return Err(ElfError::NotALibrary);
    }
    if header.e_machine(LittleEndian) != MACHINE {
        return Err(ElfError::OtherMachine);
    }
    let segments = header.program_headers(LittleEndian, bytes).map_err(|_| ElfError::Damaged("program headers"))?;
    let (mut code, mut dynamic) = (false, false);
    for segment in segments {
        match segment.p_type(LittleEndian) {
            PT_INTERP => return Err(ElfError::Program),
            PT_LOAD => code = true,
            PT_DYNAMIC => dynamic = true,
            _ => {}
        }
        let end = segment.p_offset(LittleEndian).checked_add(segment.p_filesz(LittleEndian));
        if end.is_none_or(|end| end > bytes.len() as u64) {
            return Err(ElfError::Damaged("a segment ends behind the end of the file"));
        }
        if segment.p_filesz(LittleEndian) > segment.p_memsz(LittleEndian) {
            return Err(ElfError::Damaged("a segment is larger in the file than in memory"));
        }
    }
    if code && dynamic { Ok(()) } else { Err(ElfError::NotALibrary) }
}

/// The bytes of the section `name`; `None` when there is none.
pub(super) fn section<'a>(bytes: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, ElfError> {
    let damaged = |_| ElfError::Damaged("section headers");
    let sections = header(bytes)?.sections(LittleEndian, bytes).map_err(damaged)?;
    let Some((_, section)) = sections.section_by_name(LittleEndian, name.as_bytes()) else { return Ok(None) };
    section.data(LittleEndian, bytes).map(Some).map_err(damaged)
}

fn header(bytes: &[u8]) -> Result<&Header, ElfError> {
    let header = Header::parse(bytes).map_err(|_| ElfError::NotElf)?;
    let ident = header.e_ident();
    if ident.data != ELFDATA2LSB || !header.is_class_64() { Err(ElfError::NotElf) } else { Ok(header) }
}

#[cfg(target_arch = "x86_64")]
const MACHINE: Machine = object::elf::EM_X86_64;
#[cfg(target_arch = "aarch64")]
const MACHINE: Machine = object::elf::EM_AARCH64;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("plugins are known to load on x86-64 and on AArch64 only");

#[cfg(test)]
mod tests {
    use super::*;

    fn library(segments: &[(u32, u64, u64)], len: usize) -> Vec<u8> {
        let mut file = vec![0; 64 + 56 * segments.len()];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[16] = 3;
        file[18..20].copy_from_slice(&(if cfg!(target_arch = "x86_64") { 62u16 } else { 183 }).to_le_bytes());
        file[20] = 1;
        file[32] = 64;
        file[52] = 64;
        file[54] = 56;
        file[56] = u8::try_from(segments.len()).unwrap();
        for (i, (kind, offset, size)) in segments.iter().enumerate() {
            let at = 64 + 56 * i;
            file[at..at + 4].copy_from_slice(&kind.to_le_bytes());
            file[at + 8..at + 16].copy_from_slice(&offset.to_le_bytes());
            file[at + 32..at + 40].copy_from_slice(&size.to_le_bytes());
            file[at + 40..at + 48].copy_from_slice(&size.to_le_bytes());
        }
        file.resize(len, 0);
        file
    }

    #[test]
    fn each_segment_must_end_inside_the_file() {
        let outside = Err(ElfError::Damaged("a segment ends behind the end of the file"));
        for (case, offset, size, expected) in [
            ("whole file", 0, 300, Ok(())),
            ("one byte more", 0, 301, outside.clone()),
            ("begins behind the end", 301, 0, outside.clone()),
            ("sum overflows", u64::MAX, 2, outside.clone()),
            ("size overflows", 1, u64::MAX, outside),
        ] {
            assert_eq!(check(&library(&[(1, offset, size), (2, 0, 1)], 300)), expected, "{case}");
        }
    }

    #[test]
    fn what_is_no_library_is_named() {
        let good = library(&[(1, 0, 10), (2, 0, 1)], 300);
        let with = |at: usize, value: u8| {
            let mut file = good.clone();
            file[at] = value;
            check(&file)
        };
        assert_eq!(check(b""), Err(ElfError::NotElf));
        assert_eq!(check(b"#!/bin/sh\n"), Err(ElfError::NotElf));
        assert_eq!(check(&good[..63]), Err(ElfError::NotElf));
        assert_eq!(check(&good[..100]), Err(ElfError::Damaged("program headers")));
        assert_eq!(with(4, 1), Err(ElfError::NotElf), "32-bit");
        assert_eq!(with(5, 2), Err(ElfError::NotElf), "big-endian");
        assert_eq!(with(16, 1), Err(ElfError::NotALibrary), "object file");
        assert_eq!(with(18, 40), Err(ElfError::OtherMachine));
        assert_eq!(check(&library(&[(3, 0, 10), (1, 0, 1), (2, 0, 1)], 300)), Err(ElfError::Program));
        assert_eq!(check(&library(&[(1, 0, 10)], 300)), Err(ElfError::NotALibrary), "no dynamic section");
    }
}
