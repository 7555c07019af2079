package jobfile

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one mistake in a file.
type Problem struct {
	Line    int    `json:"line"` // from 1; 0: of the file as a whole
	Column  int    `json:"column"`
	Field   string `json:"field"` // sources[0].url; empty: of the file as a whole
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"` // what was meant, or what to write
}

// Error is what is wrong with a job file: all of it, in the order of the lines.
type Error struct {
	File     string
	Problems []Problem
}

// maxProblems are told of one file.
const maxProblems = 20

func (e *Error) Error() string {
	var lines []string
	for _, p := range e.Problems {
		lines = append(lines, e.line(p))
	}
	return strings.Join(lines, "\n")
}

func (e *Error) line(p Problem) string {
	var b strings.Builder
	b.WriteString(e.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	if p.Field != "" {
		b.WriteString(": " + p.Field)
	}
	b.WriteString(": " + p.Message)
	if p.Hint != "" {
		b.WriteString(". " + p.Hint)
	}
	return b.String()
}

// meant are words that people write for others.
var meant = map[string]string{
	"repo": "repository", "target": "repository", "vms": "sources", "vm": "sources", "machines": "sources", "source": "sources",
	"cron": "schedule", "every": "schedule", "when": "schedule", "keep": "retention", "retain": "retention", "excludes": "exclude",
	"hook": "hooks", "notify": "hooks", "webhook": "url", "script": "run", "command": "run", "cmd": "run", "copy": "copies", "copy-to": "copies",
	"path": "url", "address": "url", "dir": "url", "timezone": "zone", "tz": "zone", "parallel": "tasks", "concurrency": "tasks",
	"timeout": "deadline", "bandwidth": "rate", "retries": "retry", "replica": "replicas", "bootcheck": "boot-check", "credential": "credentials",
	"times": "at", "time": "at", "backoff": "first", "missed": "catch-up", "catchup": "catch-up", "files": "disks", "images": "disks",
	"password_file": "password-file", "passphrase-file": "password-file",
}

// suggest is the name that was probably meant; empty where none is near.
func suggest(word string, names []string) string {
	word = strings.ToLower(word)
	for _, form := range []string{word, strings.ReplaceAll(word, "_", "-"), meant[word]} {
		if form != "" && slices.Contains(names, form) {
			return form
		}
	}
	best, least := "", 3
	for _, name := range names {
		if n := distance(word, name); n < least && n < len(name)-1 {
			best, least = name, n
		}
	}
	return best
}

// distance is how many letters have to be put in, taken out, changed or swapped with their neighbour.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			n := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				n = min(n, rows[i-2][j-2]+1)
			}
			rows[i][j] = n
		}
	}
	return rows[len(a)][len(b)]
}
