package winrmtest

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"unicode/utf16"
)

// Windows stands in for a guest: files and folders in memory, and our scripts taken for what they say.
type Windows struct {
	// Other runs what is no PowerShell. Nil: there is nothing else.
	Other func(context.Context, *Process) int
	// NotAdmin is an account that remote UAC has cut down.
	NotAdmin bool

	mu      sync.Mutex
	Files   map[string][]byte
	Folders map[string]bool
	Scripts []string // texts that were run, each with its data
}

// NewWindows is an empty one.
func NewWindows() *Windows {
	return &Windows{Files: map[string][]byte{}, Folders: map[string]bool{`C:\Windows\Temp`: true}}
}

// Left are paths of files and folders that were made.
func (w *Windows) Left() (paths []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p := range w.Files {
		paths = append(paths, p)
	}
	for p := range w.Folders {
		if p != `C:\Windows\Temp` {
			paths = append(paths, p)
		}
	}
	return paths
}

// Ran are the texts of the scripts that were run.
func (w *Windows) Ran() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string{}, w.Scripts...)
}

var encoded = regexp.MustCompile(`-EncodedCommand ([A-Za-z0-9+/=]+)$`)
var word = regexp.MustCompile(`\[Text\.Encoding\]::UTF8\.GetString\(\[Convert\]::FromBase64String\('([A-Za-z0-9+/=]*)'\)\)`)

// Decode reads an encoded command: its text, and the words in it.
func Decode(line string) (text string, words []string, err error) {
	m := encoded.FindStringSubmatch(line)
	if m == nil {
		return "", nil, fmt.Errorf("no encoded command in %q", line)
	}
	b, err := base64.StdEncoding.DecodeString(m[1])
	if err != nil {
		return "", nil, err
	}
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	text = string(utf16.Decode(u))
	for _, m := range word.FindAllStringSubmatch(text, -1) {
		b, err := base64.StdEncoding.DecodeString(m[1])
		if err != nil {
			return "", nil, err
		}
		words = append(words, string(b))
	}
	return text, words, nil
}

// Run is what a listener runs.
func (w *Windows) Run(ctx context.Context, p *Process) int {
	if !strings.HasSuffix(strings.ToLower(p.Path), `\powershell.exe`) {
		if w.Other == nil {
			fmt.Fprintf(p.Stderr, "%s: not found", p.Path)
			return 2
		}
		return w.Other(ctx, p)
	}
	text, words, err := Decode(p.Line)
	if err != nil {
		fmt.Fprint(p.Stderr, err)
		return 1
	}
	input, err := io.ReadAll(p.Stdin)
	if err != nil {
		return 1
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Scripts = append(w.Scripts, text)
	return w.script(p, text, words, input)
}

func (w *Windows) script(p *Process, text string, words []string, input []byte) int {
	has := func(s string) bool { return strings.Contains(text, s) }
	switch {
	case has("PROCESSOR_ARCHITECTURE"):
		fmt.Fprintf(p.Stdout, "\n%s begin\nos=windows\narch=AMD64\nhost=WEB1\nuser=WEB1\\Administrator\nadmin=%s\n", words[0], map[bool]string{true: "False", false: "True"}[w.NotAdmin])
		fmt.Fprintf(p.Stdout, "temp=C:\\Windows\\Temp\n%s end\n", words[0])
	case has("SetSecurityDescriptorSddlForm"):
		if w.Folders[words[0]] {
			return 17
		}
		w.Folders[words[0]] = true
	case has("GZipStream"):
		return w.upload(words, input)
	case has("[Console]::OpenStandardOutput()"):
		return w.download(p, words)
	case has("ComputeHash($f)"):
		sum := sha256.Sum256(w.Files[words[0]])
		fmt.Fprint(p.Stdout, hex.EncodeToString(sum[:]))
	case has("Get-Process"):
		w.remove(words[0])
		fmt.Fprint(p.Stdout, "looked\n")
	case has("[IO.Directory]::Delete($p,$true)"):
		w.remove(words[0])
	default:
		fmt.Fprintf(p.Stderr, "a script that nobody knows: %s", text)
		return 1
	}
	return 0
}

func (w *Windows) remove(path string) {
	delete(w.Folders, path)
	for f := range w.Files {
		if f == path || strings.HasPrefix(f, path+`\`) {
			delete(w.Files, f)
		}
	}
}

func (w *Windows) upload(words []string, input []byte) int {
	if _, there := w.Files[words[0]]; there {
		return 17
	}
	var packed []byte
	for line := range strings.Lines(string(input)) {
		b, err := base64.StdEncoding.DecodeString(strings.TrimRight(line, "\r\n"))
		if err != nil {
			return 1
		}
		packed = append(packed, b...)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return 1
	}
	data, err := io.ReadAll(z)
	if err != nil {
		return 1
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != words[1] {
		return 20
	}
	w.Files[words[0]] = data
	return 0
}

func (w *Windows) download(p *Process, words []string) int {
	data, there := w.Files[words[0]]
	if !there {
		return 18
	}
	var max int64
	fmt.Sscan(words[1], &max)
	if int64(len(data)) > max {
		return 19
	}
	p.Stdout.Write(data)
	return 0
}
