package wsman

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// ErrMalformed says that an answer is none of the protocol's.
var ErrMalformed = errors.New("malformed answer of WS-Management")

// Names of the protocol's parts.
const (
	soapNS  = "http://www.w3.org/2003/05/soap-envelope"
	shellNS = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
	manNS   = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
	faultNS = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"
)

const (
	maxDepth = 40
	maxID    = 100
	maxWords = 2000
)

// Fault is what the peer says that went wrong.
type Fault struct {
	Subcode string // AccessDenied, TimedOut, QuotaLimit … as the protocol calls it
	Code    uint32 // of Windows; zero where there is none
	Reason  string // in words, at most 2000 bytes
}

func (f *Fault) Error() string {
	return fmt.Sprintf("WS-Management: %s (%d): %s", f.Subcode, f.Code, strings.Join(strings.Fields(f.Reason), " "))
}

// Codes of Windows.
const (
	codeDenied     = 5
	codeMemory     = 0x8007000e
	codeTimedOut   = 2150858793
	codeShellGone  = 2150858843
	codeQuotaUser  = 2150859173 // shells of one user
	codeQuotaShell = 2150859174 // processes in one shell
)

// TimedOut says that nothing happened in the time that the peer was given, which is no failure of [Requests.Receive].
func (f *Fault) TimedOut() bool { return f.Subcode == "TimedOut" || f.Code == codeTimedOut }

// Denied says that the account may not do it.
func (f *Fault) Denied() bool { return f.Subcode == "AccessDenied" || f.Code == codeDenied }

// Quota says that a limit of the service is reached.
func (f *Fault) Quota() bool {
	return f.Subcode == "QuotaLimit" || f.Code == codeQuotaUser || f.Code == codeQuotaShell || f.Code == codeMemory
}

// ShellGone says that there is no such shell, or no longer.
func (f *Fault) ShellGone() bool { return f.Subcode == "InvalidSelectors" || f.Code == codeShellGone }

// Output is an answer to [Requests.Receive].
type Output struct {
	Stdout, Stderr []byte
	Done           bool
	ExitCode       int
}

// answer is what is of use in any answer.
type answer struct {
	shell, command string
	out            Output
	exit           string
	envelope       bool
	fault          Fault
	faulty         bool
}

// ShellID reads the answer to [Requests.Create].
func ShellID(b []byte) (string, error) {
	a, err := read(b)
	if err == nil && a.shell == "" {
		err = fmt.Errorf("%w: no shell", ErrMalformed)
	}
	return a.shell, err
}

// CommandID reads the answer to [Requests.Command].
func CommandID(b []byte) (string, error) {
	a, err := read(b)
	if err == nil && a.command == "" {
		err = fmt.Errorf("%w: no command", ErrMalformed)
	}
	return a.command, err
}

// ReadOutput reads the answer to [Requests.Receive] about one command.
func ReadOutput(b []byte) (Output, error) {
	a, err := read(b)
	if err != nil || !a.out.Done {
		return a.out, err
	}
	code, err := strconv.ParseInt(strings.TrimSpace(a.exit), 10, 64)
	if err != nil || code < -1<<31 || code > 1<<32-1 {
		return Output{}, fmt.Errorf("%w: exit code %.20q", ErrMalformed, a.exit)
	}
	a.out.ExitCode = int(int32(uint32(code)))
	return a.out, nil
}

// Check reads an answer in which there is nothing.
func Check(b []byte) error {
	_, err := read(b)
	return err
}

// read goes through a document once.
func read(b []byte) (*answer, error) {
	a := &answer{}
	d := xml.NewDecoder(bytes.NewReader(b))
	var open []xml.StartElement
	var text strings.Builder
	for {
		t, err := d.Token()
		if err == io.EOF && len(open) == 0 && a.envelope {
			break
		}
		if err != nil {
			return a, fmt.Errorf("%w at byte %d: %v", ErrMalformed, d.InputOffset(), err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			if len(open) == 0 && (a.envelope || t.Name.Space != soapNS || t.Name.Local != "Envelope") || len(open) >= maxDepth {
				return a, fmt.Errorf("%w at byte %d: element %.100q", ErrMalformed, d.InputOffset(), t.Name.Local)
			}
			a.envelope = true
			open = append(open, t.Copy())
			text.Reset()
			a.begin(t)
		case xml.CharData:
			if len(open) > 0 {
				text.Write(t)
			}
		case xml.EndElement:
			if err := a.end(open, text.String()); err != nil {
				return a, fmt.Errorf("%w at byte %d", err, d.InputOffset())
			}
			open = open[:len(open)-1]
			text.Reset()
		case xml.Directive:
			return a, fmt.Errorf("%w at byte %d: a directive", ErrMalformed, d.InputOffset())
		}
	}
	if a.faulty {
		return a, &a.fault
	}
	return a, nil
}

func (a *answer) begin(e xml.StartElement) {
	switch {
	case is(e, soapNS, "Fault"):
		a.faulty = true
	case is(e, faultNS, "WSManFault"):
		code, _ := strconv.ParseUint(attribute(e, "Code"), 10, 32)
		a.fault.Code = uint32(code)
	case is(e, shellNS, "CommandState"):
		a.out.Done = a.out.Done || strings.HasSuffix(attribute(e, "State"), "/CommandState/Done")
	}
}

// end takes the text of an element that has no other in it, or of what came after them.
func (a *answer) end(open []xml.StartElement, text string) error {
	e := open[len(open)-1]
	switch {
	case is(e, shellNS, "ShellId"), is(e, manNS, "Selector") && attribute(e, "Name") == "ShellId":
		a.shell = strings.TrimSpace(text)
		return checkID(a.shell)
	case is(e, shellNS, "CommandId"):
		a.command = strings.TrimSpace(text)
		return checkID(a.command)
	case is(e, shellNS, "ExitCode"):
		a.exit = text
	case is(e, shellNS, "Stream"):
		return a.stream(attribute(e, "Name"), text)
	case is(e, soapNS, "Value") && len(open) > 1 && is(open[len(open)-2], soapNS, "Subcode"):
		a.fault.Subcode = cut(text[strings.LastIndexByte(text, ':')+1:])
	case is(e, soapNS, "Text"), is(e, faultNS, "Message") && strings.TrimSpace(text) != "":
		a.fault.Reason = cut(text)
	}
	return nil
}

func (a *answer) stream(name, text string) error {
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return fmt.Errorf("%w: a stream: %v", ErrMalformed, err)
	}
	switch name {
	case "stdout":
		a.out.Stdout = append(a.out.Stdout, b...)
	case "stderr":
		a.out.Stderr = append(a.out.Stderr, b...)
	}
	return nil
}

func is(e xml.StartElement, space, local string) bool {
	return e.Name.Local == local && e.Name.Space == space
}

func attribute(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

func cut(s string) string { return strings.TrimSpace(s[:min(len(s), maxWords)]) }

// checkID lets through what identifiers are made of.
func checkID(id string) error {
	ok := id != "" && len(id) <= maxID && !strings.ContainsFunc(id, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '-')
	})
	if !ok {
		return fmt.Errorf("%w: identifier %.100q", ErrMalformed, id)
	}
	return nil
}
