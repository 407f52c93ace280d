//! Looking at a library file before the system's loader does.
//!
//! The loader maps a file without asking whether all of it is there, so half a download would end this
//! process with a bus error. Knows the outline of an ELF file and nothing of what is in it.

use std::io::{Error, ErrorKind, Read, Seek, SeekFrom};

/// Offsets within the header of a 64-bit ELF file, and of each of its segments' descriptions.
const HEADER_BYTES: usize = 64;
const CLASS: usize = 4;
const ENCODING: usize = 5;
const MACHINE: usize = 18;
const SEGMENT_TABLE: usize = 32;
const SECTION_TABLE: usize = 40;
const SEGMENT_ENTRY_BYTES: usize = 54;
const SEGMENT_COUNT: usize = 56;
const SECTION_ENTRY_BYTES: usize = 58;
const SECTION_COUNT: usize = 60;
const SEGMENT_OFFSET: usize = 8;
const SEGMENT_BYTES: usize = 32;
const SMALLEST_SEGMENT_ENTRY: usize = 56;

/// What makes this file unfit for this machine, one sentence without its subject; none if nothing does.
pub(crate) fn unfit(file: &mut (impl Read + Seek)) -> Option<String> {
    match inspect(file) {
        Ok(reason) => reason,
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Some(TOO_SHORT.to_owned()),
        Err(error) => {
            Some(format!("it cannot be read ({error}), so check its permissions and its disk"))
        }
    }
}

const TOO_SHORT: &str =
    "the file ends too early, so it is probably half a download: install the plugin again";

fn inspect(file: &mut (impl Read + Seek)) -> Result<Option<String>, Error> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic)?;
    if let Some(reason) = unfit_format(magic) {
        return Ok(Some(reason));
    }
    if magic != *ELF {
        return Ok(None);
    }
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&magic);
    file.read_exact(&mut header[4..])?;
    if let Some(reason) = unfit_machine(&header) {
        return Ok(Some(reason));
    }
    Ok((end_of_contents(file, &header)? > length).then(|| TOO_SHORT.to_owned()))
}

const ELF: &[u8; 4] = b"\x7fELF";

fn unfit_format(magic: [u8; 4]) -> Option<String> {
    const APPLE: [[u8; 4]; 3] =
        [[0xcf, 0xfa, 0xed, 0xfe], [0xfe, 0xed, 0xfa, 0xcf], [0xca, 0xfe, 0xba, 0xbe]];
    let (system, is_ours) = if magic == *ELF {
        ("Linux", cfg!(target_os = "linux"))
    } else if magic.starts_with(b"MZ") {
        ("Windows", cfg!(windows))
    } else if APPLE.contains(&magic) {
        ("macOS", cfg!(target_vendor = "apple"))
    } else {
        return Some(
            "it is not a library, so check the path or install the plugin again".to_owned(),
        );
    };
    let here = std::env::consts::OS;
    (!is_ours).then(|| {
        format!("it is a library for {system}, so install the plugin's package for {here}")
    })
}

fn unfit_machine(header: &[u8; HEADER_BYTES]) -> Option<String> {
    let machine = match u16::from_le_bytes([header[MACHINE], header[MACHINE + 1]]) {
        3 => "x86",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        _ => "another processor",
    };
    let bits = if header[CLASS] == 1 { 32 } else { 64 };
    let little_endian = header[ENCODING] == 1;
    let here = std::env::consts::ARCH;
    let fits =
        machine == here && bits == usize::BITS && little_endian == cfg!(target_endian = "little");
    (!fits).then(|| {
        format!(
            "it is a {bits}-bit library for {machine} and this machine is {here}, so install the plugin's package for {here}"
        )
    })
}

/// Where the last thing ends that the header or a segment's description points to.
fn end_of_contents(
    file: &mut (impl Read + Seek),
    header: &[u8; HEADER_BYTES],
) -> Result<u64, Error> {
    let long = |bytes: &[u8], offset: usize| {
        let mut value = [0; 8];
        value.copy_from_slice(&bytes[offset..offset + 8]);
        u64::from_le_bytes(value)
    };
    let short = |offset: usize| u64::from(u16::from_le_bytes([header[offset], header[offset + 1]]));
    let mut end = long(header, SECTION_TABLE)
        .saturating_add(short(SECTION_ENTRY_BYTES) * short(SECTION_COUNT));
    let entry_bytes =
        usize::try_from(short(SEGMENT_ENTRY_BYTES)).unwrap_or(0).max(SMALLEST_SEGMENT_ENTRY);
    let mut entry = vec![0; entry_bytes];
    file.seek(SeekFrom::Start(long(header, SEGMENT_TABLE)))?;
    for _ in 0..short(SEGMENT_COUNT) {
        file.read_exact(&mut entry)?;
        end = end.max(long(&entry, SEGMENT_OFFSET).saturating_add(long(&entry, SEGMENT_BYTES)));
    }
    Ok(end)
}

#[cfg(test)]
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn unfit_bytes(bytes: &[u8]) -> Option<String> {
        unfit(&mut Cursor::new(bytes))
    }

    /// This program's own file: a good library as far as these checks go.
    fn good() -> Vec<u8> {
        let mut bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let end =
            end_of_contents(&mut Cursor::new(&bytes), &bytes[..HEADER_BYTES].try_into().unwrap())
                .unwrap();
        bytes.truncate(usize::try_from(end).unwrap());
        bytes
    }

    #[test]
    fn a_good_file_is_fit_and_every_part_of_it_is_not() {
        let good = good();
        assert_eq!(unfit_bytes(&good), None);
        for length in
            (0..200).chain((200..good.len()).step_by(good.len() / 97)).chain([good.len() - 1])
        {
            assert_eq!(unfit_bytes(&good[..length]).as_deref(), Some(TOO_SHORT), "{length} bytes");
        }
    }

    #[test]
    fn another_machine_is_named() {
        let mut other = good();
        other[MACHINE..MACHINE + 2].copy_from_slice(&[0xfe, 0xff]);
        let reason = unfit_bytes(&other).unwrap();
        assert!(
            reason.contains("another processor") && reason.contains(std::env::consts::ARCH),
            "{reason}"
        );
        other = good();
        other[CLASS] = 1;
        assert!(unfit_bytes(&other).unwrap().contains("32-bit"));
    }

    #[test]
    fn another_system_is_named() {
        assert!(unfit_bytes(b"MZ..................").unwrap().contains("for Windows"));
        assert!(unfit_bytes(b"\xcf\xfa\xed\xfe............").unwrap().contains("for macOS"));
        assert!(unfit_bytes(b"this is some text").unwrap().contains("not a library"));
    }

    /// Whatever the header says, looking at it neither panics nor reads out of bounds.
    #[test]
    fn no_header_is_too_strange() {
        let mut state = 1u32;
        for _ in 0..20_000 {
            let mut bytes = [0; 160];
            for byte in &mut bytes {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = if state >> 30 == 0 { 0xff } else { (state >> 24) as u8 };
            }
            bytes[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\x00");
            let machine: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
            bytes[MACHINE..MACHINE + 2].copy_from_slice(&machine.to_le_bytes());
            bytes[SEGMENT_TABLE..SEGMENT_TABLE + 8]
                .copy_from_slice(&u64::from(state >> 26).to_le_bytes());
            let _ = unfit_bytes(&bytes);
        }
    }
}
