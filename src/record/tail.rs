//! Reads the log in the order in which it was written, from a place that may be kept.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Seek, SeekFrom},
    path::PathBuf,
};

use super::segment;

/// Where the next line begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Number of the segment; 0: before the first.
    pub segment: u64,
    /// Bytes from its beginning.
    pub offset: u64,
}

/// Follows the log of a directory. Segments may grow, be closed and be deleted meanwhile.
#[derive(Debug)]
pub struct Tail {
    directory: PathBuf,
    place: Place,
    reader: Option<BufReader<File>>,
    line: Vec<u8>,
}

impl Tail {
    /// From that place on; where its segment is gone, from the next one that is there.
    pub fn new(directory: PathBuf, place: Place) -> Self {
        Self { directory, place, reader: None, line: Vec::new() }
    }

    /// Where the line begins that was not taken yet.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The next whole line, without its end; the same until it is [taken](Self::take). `None`:
    /// there is none yet.
    ///
    /// # Errors
    ///
    /// A segment or the directory cannot be read.
    pub fn line(&mut self) -> io::Result<Option<&[u8]>> {
        while self.line.last() != Some(&b'\n') {
            if self.reader.is_none() && !self.open()? {
                return Ok(None);
            }
            let Some(reader) = &mut self.reader else { return Ok(None) };
            reader.read_until(b'\n', &mut self.line)?;
            // What lacks its end is being written, or the segment's end is reached.
            if self.line.last() != Some(&b'\n') && !(self.line.is_empty() && self.step()?) {
                return Ok(None);
            }
        }
        Ok(Some(&self.line[..self.line.len() - 1]))
    }

    /// Goes on behind the line.
    pub fn take(&mut self) {
        self.place.offset += self.line.len() as u64;
        self.line.clear();
    }

    /// Opens the segment of the place, or the first one after it. False: there is none.
    fn open(&mut self) -> io::Result<bool> {
        let segments = segment::list(&self.directory)?;
        let Some(&next) = segments.iter().find(|segment| **segment >= self.place.segment) else {
            return Ok(false);
        };
        if next != self.place.segment {
            self.place = Place { segment: next, offset: 0 };
        }
        let mut file = match File::open(segment::path(&self.directory, next, "jsonl")) {
            // Deleted since it was listed; the next call finds the one after it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        file.seek(SeekFrom::Start(self.place.offset))?;
        self.reader = Some(BufReader::with_capacity(1 << 18, file));
        self.line.clear();
        Ok(true)
    }

    /// Leaves a segment that is read to its end and has a successor. False: it has none.
    fn step(&mut self) -> io::Result<bool> {
        let segments = segment::list(&self.directory)?;
        let Some(&next) = segments.iter().find(|segment| **segment > self.place.segment) else {
            return Ok(false);
        };
        // It may have grown between the reading and the listing, and grows no more now.
        if let Some(reader) = &mut self.reader
            && reader.read_until(b'\n', &mut self.line)? > 0
        {
            return Ok(true);
        }
        self.place = Place { segment: next, offset: 0 };
        self.reader = None;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn all(tail: &mut Tail) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = tail.line().unwrap() {
            lines.push(String::from_utf8(line.to_vec()).unwrap());
            tail.take();
        }
        lines
    }

    #[test]
    fn every_line_is_read_once_over_segments_halves_and_deletions() {
        let folder = tempfile::tempdir().unwrap();
        let mut tail = Tail::new(folder.path().into(), Place::default());
        assert_eq!(all(&mut tail), [""; 0]);
        let mut first = segment::create(folder.path(), 1).unwrap();
        first.write_all(b"a\nb\nhal").unwrap();
        assert_eq!(all(&mut tail), ["a", "b"]);
        first.write_all(b"f\n").unwrap();
        let mut second = segment::create(folder.path(), 2).unwrap();
        first.write_all(b"late\n").unwrap();
        second.write_all(b"c\n").unwrap();
        assert_eq!(all(&mut tail), ["half", "late", "c"]);
        let kept = tail.place();
        second.write_all(b"d\n").unwrap();
        assert_eq!(tail.line().unwrap(), Some(&b"d"[..]));
        // Not taken, so it comes again from the place that was kept.
        let mut again = Tail::new(folder.path().into(), kept);
        assert_eq!(all(&mut again), ["d"]);
        let mut fourth = segment::create(folder.path(), 4).unwrap();
        fourth.write_all(b"e\n").unwrap();
        std::fs::remove_file(segment::path(folder.path(), 2, "jsonl")).unwrap();
        assert_eq!(all(&mut Tail::new(folder.path().into(), kept)), ["e"]);
        assert_eq!(all(&mut again), ["e"]);
    }
}
