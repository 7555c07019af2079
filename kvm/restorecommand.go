package kvm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// commandEdit turns the command line that a machine was started with into one that starts a restored one.
type commandEdit struct {
	record record
	args   []string
	notes  []string // what was changed, for a person
	stops  []string // why it cannot be started as it is
}

const maxArguments = 100_000

// splitCommandLine takes apart what /proc has of a process: arguments that end in zero bytes.
func splitCommandLine(line []byte) ([]string, error) {
	args := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	if len(args) > maxArguments || args[0] == "" {
		return nil, fmt.Errorf("a command line of %d arguments", len(args))
	}
	return args, nil
}

func (e *commandEdit) note(format string, args ...any) {
	e.notes = append(e.notes, fmt.Sprintf(format, args...))
}

func (e *commandEdit) stop(format string, args ...any) {
	e.stops = append(e.stops, fmt.Sprintf(format, args...))
}

// same reports whether a value on the command line is a file.
func (e *commandEdit) same(value, file string) bool {
	value = strings.TrimPrefix(value, "file:")
	return value != "" && file != "" && filepath.Clean(e.record.absolute(value)) == filepath.Clean(file)
}

// move replaces a file by another one, and the format of the nodes over it where that is another one now.
func (e *commandEdit) move(from, to, node, format string) (found bool) {
	for i, arg := range e.args {
		moved, hit := e.moveIn(arg, from, to, node, format)
		e.args[i], found = moved, found || hit
	}
	return found
}

func (e *commandEdit) moveIn(arg, from, to, node, format string) (string, bool) {
	switch {
	case strings.HasPrefix(arg, "{"):
		return e.moveInJSON(arg, from, to, node, format)
	case e.same(arg, from):
		return to, true
	}
	options := splitOptions(arg)
	hit, ours := false, node != "" && slices.Contains(options, "node-name="+node)
	for j, o := range options {
		name, value, ok := strings.Cut(o, "=")
		if ok && e.same(value, from) {
			options[j], hit = name+"="+to, true
		}
	}
	for j, o := range options {
		name, _, _ := strings.Cut(o, "=")
		if format != "" && (name == "format" && hit || name == "driver" && ours) {
			options[j] = name + "=" + format
		}
	}
	if !hit && !ours {
		return arg, false
	}
	return joinOptions(options), hit
}

// splitOptions takes apart what QEMU takes as options: words between commas, where two commas are one of a word.
func splitOptions(arg string) []string {
	var out []string
	var word strings.Builder
	for i := 0; i < len(arg); i++ {
		switch {
		case arg[i] != ',':
			word.WriteByte(arg[i])
		case i+1 < len(arg) && arg[i+1] == ',':
			word.WriteByte(',')
			i++
		default:
			out = append(out, word.String())
			word.Reset()
		}
	}
	return append(out, word.String())
}

func joinOptions(options []string) string {
	quoted := make([]string, len(options))
	for i, o := range options {
		quoted[i] = strings.ReplaceAll(o, ",", ",,")
	}
	return strings.Join(quoted, ",")
}

func (e *commandEdit) moveInJSON(arg, from, to, node, format string) (string, bool) {
	decoder := json.NewDecoder(strings.NewReader(arg))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		return arg, false
	}
	hit, ours := e.moveInValue(value, from, to, node, format)
	if !hit && !ours {
		return arg, false
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(value) != nil {
		return arg, false
	}
	return strings.TrimSuffix(out.String(), "\n"), hit
}

func (e *commandEdit) moveInValue(value any, from, to, node, format string) (hit, ours bool) {
	switch v := value.(type) {
	case map[string]any:
		if name, ok := v["filename"].(string); ok && e.same(name, from) {
			v["filename"], hit = to, true
		}
		if v["node-name"] == node && node != "" && v["driver"] != nil && format != "" {
			v["driver"], ours = format, true
		}
		for _, inner := range v {
			h, o := e.moveInValue(inner, from, to, node, format)
			hit, ours = hit || h, ours || o
		}
	case []any:
		for _, inner := range v {
			h, o := e.moveInValue(inner, from, to, node, format)
			hit, ours = hit || h, ours || o
		}
	}
	return hit, ours
}

// dropped are options, with their value, that were about one start and not about the machine.
var dropped = map[string]string{
	"-incoming": "a machine that is restored does not wait for a migration",
	"-loadvm":   "the saved state is not in the restored disks",
}

// fromOutside are values that only whoever started the machine could give: open files.
var fromOutside = regexp.MustCompile(`(^|[,:"])(fd|fds|vhostfd|vhostfds|fdset)"?[=:]|^/dev/fdset/`)

// clean takes away what was about one start, and finds what cannot be given again.
func (e *commandEdit) clean() {
	var out []string
	for i := 0; i < len(e.args); i++ {
		option := "-" + strings.TrimLeft(e.args[i], "-")
		if why, ok := dropped[option]; ok && i > 0 && strings.HasPrefix(e.args[i], "-") {
			e.note("left out: %s: %s", option, why)
			i++
			continue
		}
		if option == "-add-fd" || fromOutside.MatchString(e.args[i]) {
			e.stop("%s needs an open file of whoever started the machine", e.args[i])
		}
		out = append(out, e.args[i])
	}
	e.args = out
}

// rename gives the machine another name.
func (e *commandEdit) rename(name string) {
	if name == "" || strings.ContainsAny(name, "\x00") {
		return
	}
	for i := 1; i+1 < len(e.args); i++ {
		if e.args[i] != "-name" && e.args[i] != "--name" {
			continue
		}
		options := splitOptions(e.args[i+1])
		for j, o := range options {
			if strings.HasPrefix(o, "guest=") {
				options[j] = "guest=" + name
			} else if j == 0 && !strings.Contains(o, "=") {
				options[j] = name
			}
		}
		e.args[i+1] = joinOptions(options)
		e.note("name: %s", name)
		return
	}
}

// mentions reports whether a file is still named anywhere.
func (e *commandEdit) mentions(file string) bool {
	return file != "" && slices.ContainsFunc(e.args[1:], func(arg string) bool {
		return strings.Contains(arg, file) || strings.Contains(strings.ReplaceAll(arg, ",,", ","), file)
	})
}

// sockets are the unix sockets at which the machine will listen.
func (e *commandEdit) sockets() (paths []string) {
	for i, arg := range e.args {
		switch {
		case strings.HasPrefix(arg, "unix:"):
			paths = append(paths, e.record.absolute(splitOptions(strings.TrimPrefix(arg, "unix:"))[0]))
		case i > 0 && e.args[i-1] == "-chardev" && strings.HasPrefix(arg, "socket,") && strings.Contains(arg, ",server"):
			for _, o := range splitOptions(arg) {
				if path, ok := strings.CutPrefix(o, "path="); ok {
					paths = append(paths, e.record.absolute(path))
				}
			}
		}
	}
	return paths
}

// script is the whole as a program of the shell.
func (e *commandEdit) script(title string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "#!/bin/sh\n# %s\n#\n# The command line is the one that the machine was started with, changed so:\n", comment(title))
	for _, n := range e.notes {
		fmt.Fprintf(&b, "#   %s\n", comment(n))
	}
	b.WriteString("set -eu\n")
	for _, why := range e.stops {
		fmt.Fprintf(&b, "echo %s >&2\n", quoteShell("This needs a person first: "+comment(why)))
	}
	if len(e.stops) > 0 {
		fmt.Fprintf(&b, "echo %s >&2\nexit 1\n", quoteShell("Edit this script, then take these lines out."))
	}
	if s := e.sockets(); len(s) > 0 {
		b.WriteString("\n# A machine that runs and listens at one of these would lose its socket to this one.\nfor socket in")
		for _, path := range s {
			b.WriteString(" " + quoteShell(path))
		}
		b.WriteString(`; do
	while read -r _ _ _ flags _ _ _ path; do
		if [ "$flags" = 00010000 ] && [ "$path" = "$socket" ]; then
			echo "a running machine listens at $socket: shut it down, or change the path in this script" >&2
			exit 1
		fi
	done </proc/net/unix
done
`)
	}
	if e.record.Folder != "" && e.record.Folder != "/" {
		fmt.Fprintf(&b, "\nif [ -d %[1]s ]; then cd %[1]s; fi\n", quoteShell(e.record.Folder))
	}
	b.WriteString("\nexec " + quoteShell(e.args[0]))
	for i, arg := range e.args[1:] {
		if strings.HasPrefix(arg, "-") && arg != "-" || i == 0 {
			b.WriteString(" \\\n\t")
		} else {
			b.WriteString(" ")
		}
		b.WriteString(quoteShell(arg))
	}
	b.WriteString("\n")
	return b.Bytes()
}

// comment keeps text on one line, without what a terminal would act on.
func comment(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return '?'
		}
		return c
	}, s)
}
