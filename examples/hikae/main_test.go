package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hikae/hikae/internal/fatdisk"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"hikae": func() { os.Exit(start()) }})
}

// TestScripts runs the contract of the command line: each script is a story told with the real program.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		Deadline:            time.Now().Add(8 * time.Minute),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HIKAE_STATE_DIR", filepath.Join(e.WorkDir, ".state"))
			e.Setenv("HIKAE_CACHE_DIR", filepath.Join(e.WorkDir, ".cache"))
			e.Setenv("IN_THREE_DAYS", strings.ToLower(time.Now().AddDate(0, 0, 3).Weekday().String())) // a day that is not today, for windows
			e.Setenv("GORACE", "atexit_sleep_ms=0")                                                    // a race still ends a program with 66, without a second's sleep each
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": status, "json": jsonIs, "fields": fields, "take": take,
			"sample": sample, "pass": pass, "flip": flip, "same": same, "lines": lines, "listed": listed, "grow": grow, "interrupt": interrupt,
		},
	})
}

// status runs a program and holds its exit status:  status 2 hikae backup
func status(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) >= 2, "status N PROGRAM ARG…")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := exitStatus(ts, ts.Exec(args[1], args[2:]...)); got != want {
		ts.Fatalf("exit status %d where %d was expected", got, want)
	}
}

func exitStatus(ts *testscript.TestScript, err error) int {
	if err == nil {
		return 0
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		ts.Fatalf("%v", err)
	}
	return exit.ExitCode()
}

// document is the one JSON document on stdout.
func document(ts *testscript.TestScript) any {
	dec := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	dec.UseNumber()
	var doc any
	if err := dec.Decode(&doc); err != nil {
		ts.Fatalf("stdout is not JSON: %v", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		ts.Fatalf("stdout holds more than one document")
	}
	return doc
}

// at walks a path such as .disks.0.key; "len" at its end is the number of elements.
func at(ts *testscript.TestScript, doc any, path string) any {
	for part := range strings.SplitSeq(strings.Trim(path, "."), ".") {
		switch v := doc.(type) {
		case map[string]any:
			child, ok := v[part]
			if !ok {
				ts.Fatalf("%s: there is no %q", path, part)
			}
			doc = child
		case []any:
			if part == "len" {
				return json.Number(strconv.Itoa(len(v)))
			}
			i, err := strconv.Atoi(part)
			if err != nil || i >= len(v) {
				ts.Fatalf("%s: a list of %d has no %q", path, len(v), part)
			}
			doc = v[i]
		default:
			ts.Fatalf("%s: nothing lies below %v", path, doc)
		}
	}
	return doc
}

func word(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, _ := json.Marshal(v)
	return string(b)
}

// jsonIs holds a value on stdout against a pattern that must match all of it:  json .vm web1
func jsonIs(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, false, len(args) == 2, "json PATH PATTERN")
	got := word(at(ts, document(ts), args[0]))
	match, err := regexp.MatchString("^(?:"+args[1]+")$", got)
	ts.Check(err)
	if match == neg {
		ts.Fatalf("%s is %s", args[0], got)
	}
}

// fields holds which fields an object on stdout has, at least:  fields . id repository
func fields(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) >= 2, "fields PATH NAME…")
	doc := document(ts)
	if args[0] != "." {
		doc = at(ts, doc, args[0])
	}
	object, ok := doc.(map[string]any)
	if !ok {
		ts.Fatalf("%s is no object", args[0])
	}
	for _, name := range args[1:] {
		if _, ok := object[name]; !ok {
			ts.Fatalf("%s has no field %q", args[0], name)
		}
	}
}

// take puts a value on stdout into a variable:  take POINT .point
func take(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 2, "take VARIABLE PATH")
	ts.Setenv(args[0], word(at(ts, document(ts), args[1])))
}

// sample makes a disk:  sample disk.raw 16777216 1
func sample(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 3, "sample FILE SIZE SEED")
	size, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	seed, err := strconv.ParseUint(args[2], 10, 64)
	ts.Check(err)
	d, err := fatdisk.Sample(ts.MkAbs(args[0]), size, seed)
	ts.Check(err)
	ts.Check(d.Close())
}

// pass lets a day pass on a disk, and may write the list of what changed:  pass disk.raw 1 changed.json
func pass(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 2 || len(args) == 3, "pass FILE DAY [LIST]")
	day, err := strconv.Atoi(args[1])
	ts.Check(err)
	d, err := fatdisk.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer d.Close()
	ts.Check(d.Pass(day))
	if len(args) == 2 {
		return
	}
	var list []string
	for _, r := range d.Written() {
		list = append(list, fmt.Sprintf(`{"start": %d, "length": %d}`, r.Off, r.Len))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte("["+strings.Join(list, ",\n")+"]"), 0o600))
}

// flip damages N bytes from byte OFF in every file below a folder:  flip repository/data 4096 100000
func flip(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 3, "flip FOLDER OFF N")
	off, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	found := 0
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		found++
		return flipFile(path, off, n)
	}))
	if found == 0 {
		ts.Fatalf("there is no file below %s", args[0])
	}
}

func flipFile(path string, off int64, n int) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for i := int(off); i < min(len(data), int(off)+n); i++ {
		data[i] ^= 0x55
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// same compares two files:  same a.raw b.raw
func same(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, false, len(args) == 2, "same FILE FILE")
	a, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	b, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	if bytes.Equal(a, b) == neg {
		ts.Fatalf("%s (%d bytes) and %s (%d bytes): equal %v", args[0], len(a), args[1], len(b), !neg)
	}
}

// lines holds how many lines stdout or stderr has:  lines stdout 3
func lines(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 2, "lines STREAM N")
	if got := strconv.Itoa(strings.Count(ts.ReadFile(args[0]), "\n")); got != args[1] {
		ts.Fatalf("%s has %s lines where %s were expected", args[0], got, args[1])
	}
}

// grow makes a file of exactly N bytes whose last byte is 7:  grow tail.raw 1000001
func grow(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 2, "grow FILE N")
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR|os.O_CREATE, 0o600)
	ts.Check(err)
	defer f.Close()
	ts.Check(f.Truncate(n))
	if n > 0 {
		_, err = f.WriteAt([]byte{7}, n-1)
		ts.Check(err)
	}
}

func need(ts *testscript.TestScript, neg, ok bool, use string) {
	if neg || !ok {
		ts.Fatalf("usage: %s", use)
	}
}
