package sshchannel

import (
	"errors"
	"fmt"
	"strings"
)

// maxLine bounds a command line in bytes: Linux takes no longer word than 128 KiB, and the whole line is one word of the
// login shell's.
const maxLine = 120 << 10

var (
	errLong = errors.New("the command is too long")
	errNUL  = errors.New("a word with a zero byte")
)

// tame characters mean nothing to any shell, within double quotes and without quotes.
func tame(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("/._-:,@+", c) >= 0
}

func allTame(s string) bool {
	for i := range len(s) {
		if !tame(s[i]) {
			return false
		}
	}
	return s != ""
}

// quote writes a word for a POSIX shell.
func quote(word string) string {
	if allTame(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// posixLine is words as one line for a POSIX shell.
func posixLine(words []string) (string, error) {
	var b strings.Builder
	for i, w := range words {
		if strings.IndexByte(w, 0) >= 0 {
			return "", errNUL
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(quote(w))
	}
	return b.String(), nil
}

// anyShell is a script for a POSIX shell as a line for whatever shell an account has. Quoting differs between shells, so
// the script is encoded: what the login shell sees are single quotes around letters, digits and characters that it has no
// use for within them. The script must not end with a line feed.
//
// A script of plain words stays readable in the guest's logs.
func anyShell(script string) (string, error) {
	if strings.IndexByte(script, 0) >= 0 {
		return "", errNUL
	}
	line := "exec /bin/sh -c '" + script + "'"
	if !readable(script) {
		line = `exec /bin/sh -c 'eval "$(printf %b "` + octal(script) + `")"'`
	}
	if len(line) > maxLine {
		return "", fmt.Errorf("%w: %d bytes, at most %d", errLong, len(line), maxLine)
	}
	return line, nil
}

func readable(script string) bool {
	for i := range len(script) {
		if c := script[i]; !tame(c) && strings.IndexByte(" ;>&=$", c) < 0 {
			return false
		}
	}
	return true
}

// octal writes what is not tame in the form that printf %b takes.
func octal(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; tame(c) || c == ' ' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, `\0%03o`, c)
		}
	}
	return b.String()
}
