//! Reads one tool call, a JSON object, as it comes in: its name first, then the text of its
//! arguments piece by piece. Knows nothing of what stands around the object.
//!
//! The arguments' own text is passed on as it is, so what a model wrote wrong in there reaches the
//! client like any other text; only their end is looked for.

/// Where a reader is in the object.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// `{` is next.
    Start,
    /// A key or the end is next.
    Key,
    InKey,
    Colon,
    /// A value is next.
    Value,
    InValue,
    /// A comma or the end is next.
    Comma,
    Done,
}

/// What a character did.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Nothing to pass on yet.
    Wait,
    /// The call begins, with this much of its arguments.
    Begin { name: String, arguments: String },
    /// More of the arguments.
    Arguments(char),
    /// The object has ended; if the call has not begun yet, here are its name and arguments.
    Done { unbegun: Option<(String, String)> },
    /// This is no call; the character was not taken.
    Broken,
}

/// One call under way.
#[derive(Debug)]
pub(super) struct CallReader {
    place: Place,
    /// Whether a call can do without arguments, and may have members that mean nothing here.
    lenient: bool,
    key: String,
    value: String,
    /// The value is a number or a word, ended by what follows it.
    plain: bool,
    /// The value is passed on as it comes in.
    streams: bool,
    depth: usize,
    in_string: bool,
    escaped: bool,
    name: Option<String>,
    /// Arguments that came before the name.
    early: Option<String>,
    begun: bool,
    /// Everything so far, for a call that turns out to be none.
    raw: String,
}

impl CallReader {
    /// `lenient` where something else than the object's own look says that it is a call.
    pub(super) fn new(lenient: bool) -> CallReader {
        CallReader {
            place: Place::Start,
            lenient,
            key: String::new(),
            value: String::new(),
            plain: false,
            streams: false,
            depth: 0,
            in_string: false,
            escaped: false,
            name: None,
            early: None,
            begun: false,
            raw: String::new(),
        }
    }

    pub(super) fn begun(&self) -> bool {
        self.begun
    }

    /// The text of an object that is no call.
    pub(super) fn into_raw(self) -> String {
        self.raw
    }

    pub(super) fn push(&mut self, character: char) -> Step {
        let step = self.step(character);
        if step != Step::Broken && !self.begun {
            self.raw.push(character);
        }
        if matches!(step, Step::Begin { .. } | Step::Done { unbegun: Some(_) }) {
            self.begun = true;
        }
        step
    }

    fn step(&mut self, character: char) -> Step {
        let blank = matches!(character, ' ' | '\n' | '\r' | '\t');
        match self.place {
            Place::Start | Place::Key | Place::Colon | Place::Value | Place::Comma if blank => {
                Step::Wait
            }
            Place::Start if character == '{' => self.to(Place::Key),
            Place::Key if character == '"' => {
                self.key.clear();
                self.escaped = false;
                self.to(Place::InKey)
            }
            Place::Key | Place::Comma if character == '}' => self.end(),
            Place::InKey => {
                if self.escaped {
                    self.escaped = false;
                } else if character == '\\' {
                    self.escaped = true;
                } else if character == '"' {
                    return match self.lenient || self.known() {
                        true => self.to(Place::Colon),
                        false => Step::Broken,
                    };
                }
                self.key.push(character);
                Step::Wait
            }
            Place::Colon if character == ':' => self.to(Place::Value),
            Place::Value => self.begin_value(character),
            Place::InValue => self.in_value(character),
            Place::Comma if character == ',' => self.to(Place::Key),
            Place::Start | Place::Key | Place::Colon | Place::Comma | Place::Done => Step::Broken,
        }
    }

    fn to(&mut self, place: Place) -> Step {
        self.place = place;
        Step::Wait
    }

    fn known(&self) -> bool {
        matches!(self.key.as_str(), "name" | "arguments" | "parameters" | "type" | "id")
    }

    fn is_arguments(&self) -> bool {
        matches!(self.key.as_str(), "arguments" | "parameters")
            && !self.begun
            && self.early.is_none()
    }

    fn begin_value(&mut self, character: char) -> Step {
        let fits = match self.key.as_str() {
            "name" => character == '"' && self.name.is_none(),
            "arguments" | "parameters" => matches!(character, '{' | '"' | 'n'),
            _ => !matches!(character, ',' | '}' | ']' | ':'),
        };
        if !fits {
            return Step::Broken;
        }
        self.place = Place::InValue;
        self.value.clear();
        (self.depth, self.in_string, self.escaped) = (0, false, false);
        self.plain = !matches!(character, '{' | '[' | '"');
        self.streams = character == '{' && self.is_arguments() && self.name.is_some();
        self.in_value(character)
    }

    fn in_value(&mut self, character: char) -> Step {
        if self.plain && matches!(character, ',' | '}' | ' ' | '\n' | '\r' | '\t') {
            // What ends a number is no part of it.
            return match self.end_value() {
                Step::Wait => self.step(character),
                other => other,
            };
        }
        let mut ends = false;
        if self.in_string {
            if self.escaped {
                self.escaped = false;
            } else if character == '\\' {
                self.escaped = true;
            } else if character == '"' {
                self.in_string = false;
                ends = self.depth == 0;
            }
        } else {
            match character {
                '"' => self.in_string = true,
                '{' | '[' => self.depth += 1,
                '}' | ']' => {
                    self.depth = self.depth.saturating_sub(1);
                    ends = self.depth == 0;
                }
                _ => {}
            }
        }
        if self.streams {
            if ends {
                self.place = Place::Comma;
            }
            return match (self.begun, &self.name) {
                (false, Some(name)) => {
                    Step::Begin { name: name.clone(), arguments: character.to_string() }
                }
                _ => Step::Arguments(character),
            };
        }
        self.value.push(character);
        if ends && !self.plain { self.end_value() } else { Step::Wait }
    }

    /// A value that was kept back has ended.
    fn end_value(&mut self) -> Step {
        self.place = Place::Comma;
        if self.key == "name" {
            match serde_json::from_str::<String>(&self.value) {
                Ok(name) if !name.is_empty() => self.name = Some(name),
                _ => return Step::Broken,
            }
        } else if self.is_arguments() {
            // Some models write the arguments as a string of JSON, or null for none.
            self.early = match self.value.as_str() {
                "null" => Some("{}".to_owned()),
                object if object.starts_with('{') => Some(object.to_owned()),
                other => match serde_json::from_str::<String>(other) {
                    Ok(text) => Some(text),
                    Err(_) => return Step::Broken,
                },
            };
        }
        match (&self.name, &self.early) {
            // The last character of a name or of the arguments: nothing is held back any more.
            (Some(name), Some(arguments)) if !self.begun && !self.plain => {
                Step::Begin { name: name.clone(), arguments: arguments.clone() }
            }
            _ => Step::Wait,
        }
    }

    fn end(&mut self) -> Step {
        let unbegun = match (&self.name, &self.early) {
            _ if self.begun => None,
            (Some(name), Some(arguments)) => Some((name.clone(), arguments.clone())),
            (Some(name), None) if self.lenient => Some((name.clone(), "{}".to_owned())),
            _ => return Step::Broken,
        };
        self.place = Place::Done;
        Step::Done { unbegun }
    }
}
