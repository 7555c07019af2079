// Package vector reads annotated dumps of messages on the wire, so that a client and a server are tested against the same
// bytes and neither has made them. The form is described in vmware/nfc/testdata/vectors/README.md.
package vector

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Bounds of what is read.
const (
	maxFile    = 1 << 20
	maxMessage = 1 << 20
)

// Message is one message, or one line of the authentication daemon, as it goes over the wire.
type Message struct {
	File       string // without folder and ending: "aio"
	Name       string // of its own in the file
	FromServer bool
	Bytes      []byte
	Fields     []Field
}

// Field is a part of a message's bytes.
type Field struct {
	Off, Len int
	Comment  string
	Guess    bool // no source has it: nobody may depend on it
}

// Set is the messages of one or more files, in order.
type Set []Message

// Get finds a message by its file and name. It panics where there is none: the name is a constant of the caller.
func (s Set) Get(file, name string) Message {
	for _, m := range s {
		if m.File == file && m.Name == name {
			return m
		}
	}
	panic(fmt.Sprintf("vector: no message %q in %s.txt", name, file))
}

// Load reads every .txt file of a folder. A folder without any is an error: a test against nothing would pass.
func Load(dir string) (Set, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		return nil, err
	}
	var all Set
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		if info.Size() > maxFile {
			return nil, fmt.Errorf("%s: larger than %d bytes", name, maxFile)
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		part, err := Parse(strings.TrimSuffix(filepath.Base(name), ".txt"), string(text))
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: no vectors", dir)
	}
	return all, nil
}

// Parse reads the text of one file. Errors name file and line.
func Parse(file, text string) (Set, error) {
	var set Set
	seen := map[string]bool{}
	for i, line := range strings.Split(text, "\n") {
		fail := func(err error) (Set, error) { return nil, fmt.Errorf("%s.txt line %d: %w", file, i+1, err) }
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if name, server, ok := head(line); ok {
			if name == "" || seen[name] {
				return fail(fmt.Errorf("a message needs a name of its own, not %q", name))
			}
			seen[name] = true
			set = append(set, Message{File: file, Name: name, FromServer: server})
			continue
		}
		if len(set) == 0 {
			return fail(errors.New("bytes before the first message"))
		}
		if err := set[len(set)-1].add(line); err != nil {
			return fail(err)
		}
	}
	for _, m := range set {
		if len(m.Bytes) == 0 {
			return nil, fmt.Errorf("%s.txt: message %q is empty", file, m.Name)
		}
	}
	return set, nil
}

// head reads the line that begins a message.
func head(line string) (name string, fromServer, ok bool) {
	if name, ok = strings.CutPrefix(line, "->"); ok {
		return strings.TrimSpace(name), false, true
	}
	name, ok = strings.CutPrefix(line, "<-")
	return strings.TrimSpace(name), true, ok
}

// add appends one field: tokens, then a comment that has a source.
func (m *Message) add(line string) error {
	off, rest := len(m.Bytes), line
	for rest != "" && rest[0] != '#' {
		b, n, err := token(rest)
		if err != nil {
			return err
		}
		if len(m.Bytes)+len(b) > maxMessage {
			return fmt.Errorf("message %q is larger than %d bytes", m.Name, maxMessage)
		}
		m.Bytes, rest = append(m.Bytes, b...), strings.TrimLeft(rest[n:], " \t")
	}
	comment := strings.TrimSpace(strings.TrimPrefix(rest, "#"))
	if !strings.Contains(comment, "[") || !strings.HasSuffix(comment, "]") {
		return errors.New("a field ends in a comment with its source in brackets")
	}
	m.Fields = append(m.Fields, Field{Off: off, Len: len(m.Bytes) - off, Comment: comment, Guess: strings.Contains(comment, "[guess]")})
	return nil
}

// token reads one token and how much of the text it takes.
func token(text string) ([]byte, int, error) {
	if text[0] == '"' {
		quoted, err := strconv.QuotedPrefix(text)
		if err != nil {
			return nil, 0, err
		}
		s, err := strconv.Unquote(quoted)
		return []byte(s), len(quoted), err
	}
	end := strings.IndexAny(text, " \t#")
	if end < 0 {
		end = len(text)
	}
	digits, times, repeated := strings.Cut(text[:end], "*")
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != 1 {
		return nil, 0, fmt.Errorf("%q is not a byte", text[:end])
	}
	if !repeated {
		return b, end, nil
	}
	n, err := strconv.Atoi(times)
	if err != nil || n < 1 || n > maxMessage {
		return nil, 0, fmt.Errorf("%q is no count of bytes", text[:end])
	}
	return []byte(strings.Repeat(string(b), n)), end, nil
}
