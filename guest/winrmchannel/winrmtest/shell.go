package winrmtest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// envelope is what is looked at of a message.
type envelope struct {
	XMLName xml.Name `xml:"http://www.w3.org/2003/05/soap-envelope Envelope"`
	Header  struct {
		Action    string  `xml:"http://schemas.xmlsoap.org/ws/2004/08/addressing Action"`
		MessageID string  `xml:"http://schemas.xmlsoap.org/ws/2004/08/addressing MessageID"`
		Resource  string  `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd ResourceURI"`
		Envelope  int     `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd MaxEnvelopeSize"`
		Selectors []named `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd SelectorSet>Selector"`
		Options   []named `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd OptionSet>Option"`
	} `xml:"http://www.w3.org/2003/05/soap-envelope Header"`
	Body struct {
		Shell       *struct{} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Shell"`
		CommandLine *struct {
			Command   string   `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Command"`
			Arguments []string `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Arguments"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell CommandLine"`
		Send *struct {
			Stream struct {
				Name      string `xml:"Name,attr"`
				CommandID string `xml:"CommandId,attr"`
				End       string `xml:"End,attr"`
				Data      string `xml:",chardata"`
			} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Stream"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Send"`
	} `xml:"http://www.w3.org/2003/05/soap-envelope Body"`
}

type named struct {
	Name  string `xml:"Name,attr"`
	Value string `xml:",chardata"`
}

func parse(b []byte) (*envelope, error) {
	e := &envelope{}
	if len(b) > 512000 {
		return nil, fmt.Errorf("a message of %d bytes", len(b))
	}
	return e, xml.Unmarshal(b, e)
}

func value(list []named, name string) string {
	for _, n := range list {
		if n.Name == name {
			return n.Value
		}
	}
	return ""
}

// shell holds one command.
type shell struct {
	ctx    context.Context
	cancel context.CancelFunc
	stdin  *io.PipeReader
	input  *io.PipeWriter
	queue  chan []byte // nil is the end

	mu             sync.Mutex
	changed        chan struct{}
	stdout, stderr bytes.Buffer
	exit           *int
}

func newShell() *shell {
	s := &shell{changed: make(chan struct{}, 1), queue: make(chan []byte, 1024)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.stdin, s.input = io.Pipe()
	return s
}

func (s *shell) close() {
	s.cancel()
	s.stdin.Close()
}

// feed hands on the input, so that no message waits for a program that reads nothing.
func (s *shell) feed() {
	for {
		select {
		case b := <-s.queue:
			if b == nil {
				s.input.Close()
				return
			}
			if _, err := s.input.Write(b); err != nil {
				return
			}
		case <-s.ctx.Done():
			return
		}
	}
}

type output struct {
	*shell
	to *bytes.Buffer
}

// maxHeld is what a program may be ahead of its reader.
const maxHeld = 256 << 10

func (o output) Write(p []byte) (int, error) {
	for {
		o.mu.Lock()
		if o.to.Len() < maxHeld {
			o.to.Write(p)
			o.mu.Unlock()
			o.wake()
			return len(p), nil
		}
		o.mu.Unlock()
		select {
		case <-o.ctx.Done():
			return 0, io.ErrClosedPipe
		case <-time.After(time.Millisecond):
		}
	}
}

func (s *shell) wake() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// answer serves one message.
func (s *Server) answer(e *envelope, action string) (int, []byte) {
	if action == "Create" {
		if e.Body.Shell == nil || !strings.HasSuffix(e.Header.Resource, "/windows/shell/cmd") {
			return fault("InvalidParameter", 87, "no shell was asked for")
		}
		s.mu.Lock()
		s.made++
		id := fmt.Sprintf("5D2B0E0A-0000-4000-8000-%012X", s.made)
		s.shells[id] = newShell()
		s.mu.Unlock()
		return reply("http://schemas.xmlsoap.org/ws/2004/09/transfer/CreateResponse",
			`<rsp:Shell><rsp:ShellId>`+id+`</rsp:ShellId></rsp:Shell>`)
	}
	id := value(e.Header.Selectors, "ShellId")
	s.mu.Lock()
	sh := s.shells[id]
	s.mu.Unlock()
	if sh == nil {
		return fault("InvalidSelectors", 2150858843, "the shell was not found")
	}
	base := "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/"
	switch action {
	case "Delete":
		sh.close()
		s.mu.Lock()
		delete(s.shells, id)
		s.mu.Unlock()
		return reply("http://schemas.xmlsoap.org/ws/2004/09/transfer/DeleteResponse", "")
	case "Command":
		if value(e.Header.Options, "WINRS_SKIP_CMD_SHELL") != "TRUE" || value(e.Header.Options, "WINRS_CONSOLEMODE_STDIN") != "FALSE" {
			return fault("InvalidOptions", 87, "cmd is not here")
		}
		s.begin(sh, e.Body.CommandLine.Command, strings.Join(e.Body.CommandLine.Arguments, " "))
		return reply(base+"CommandResponse", `<rsp:CommandResponse><rsp:CommandId>77DF7BB6-B5A0-4777-ABD9-9823C0774074</rsp:CommandId></rsp:CommandResponse>`)
	case "Send":
		b, err := base64.StdEncoding.DecodeString(e.Body.Send.Stream.Data)
		if err != nil {
			return fault("InvalidMessage", 13, "no base64")
		}
		if len(b) > 0 {
			sh.queue <- b
		}
		if e.Body.Send.Stream.End == "true" {
			sh.queue <- nil
		}
		return reply(base+"SendResponse", `<rsp:SendResponse/>`)
	case "Signal":
		sh.close()
		return reply(base+"SignalResponse", `<rsp:SignalResponse/>`)
	case "Receive":
		return s.receive(sh)
	}
	return fault("ActionNotSupported", 0, action)
}

func (s *Server) begin(sh *shell, path, line string) {
	s.group.Go(sh.feed)
	s.group.Go(func() {
		code := s.program(sh.ctx, &Process{Path: strings.Trim(path, `"`), Line: line, Stdin: sh.stdin,
			Stdout: output{sh, &sh.stdout}, Stderr: output{sh, &sh.stderr}})
		sh.mu.Lock()
		sh.exit = &code
		sh.mu.Unlock()
		sh.wake()
	})
}

// receive waits for output, and gives at most what a message holds.
func (s *Server) receive(sh *shell) (int, []byte) {
	end := time.After(s.opts.Hold)
	for {
		sh.mu.Lock()
		if body, ok := sh.take(); ok {
			sh.mu.Unlock()
			return reply("http://schemas.microsoft.com/wbem/wsman/1/windows/shell/ReceiveResponse", body)
		}
		sh.mu.Unlock()
		select {
		case <-sh.changed:
		case <-sh.ctx.Done():
			return fault("OperationAborted", 995, "the shell was deleted")
		case <-end:
			return fault("TimedOut", 2150858793, "The WS-Management service cannot complete the operation within the time specified in OperationTimeout.")
		}
	}
}

func (s *shell) take() (string, bool) {
	var b strings.Builder
	const id = `CommandId="77DF7BB6-B5A0-4777-ABD9-9823C0774074"`
	for _, o := range []struct {
		name string
		from *bytes.Buffer
	}{{"stdout", &s.stdout}, {"stderr", &s.stderr}} {
		if got := o.from.Next(40 << 10); len(got) > 0 {
			fmt.Fprintf(&b, `<rsp:Stream Name="%s" %s>%s</rsp:Stream>`, o.name, id, base64.StdEncoding.EncodeToString(got))
		}
	}
	switch {
	case s.exit != nil && s.stdout.Len()+s.stderr.Len() == 0:
		fmt.Fprintf(&b, `<rsp:Stream Name="stdout" %s End="true"></rsp:Stream><rsp:CommandState %s State="http://schemas.microsoft.com/wbem/wsman/1/windows/shell/CommandState/Done"><rsp:ExitCode>%d</rsp:ExitCode></rsp:CommandState>`,
			id, id, *s.exit)
	case b.Len() == 0:
		return "", false
	default:
		fmt.Fprintf(&b, `<rsp:CommandState %s State="http://schemas.microsoft.com/wbem/wsman/1/windows/shell/CommandState/Running"/>`, id)
	}
	return `<rsp:ReceiveResponse>` + b.String() + `</rsp:ReceiveResponse>`, true
}

const head = `<s:Envelope xml:lang="en-US" xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:rsp="http://schemas.microsoft.com/wbem/wsman/1/windows/shell">`

func reply(action, body string) (int, []byte) {
	return http.StatusOK, []byte(head + `<s:Header><a:Action>` + action + `</a:Action></s:Header><s:Body>` + body + `</s:Body></s:Envelope>`)
}

// Fault is the body of an answer that tells of a failure.
func Fault(subcode string, code uint32, reason string) []byte {
	return []byte(head + `<s:Header><a:Action>http://schemas.dmtf.org/wbem/wsman/1/wsman/fault</a:Action></s:Header><s:Body><s:Fault>` +
		`<s:Code><s:Value>s:Receiver</s:Value><s:Subcode><s:Value>w:` + subcode + `</s:Value></s:Subcode></s:Code><s:Reason><s:Text xml:lang="en-US">` +
		reason + `</s:Text></s:Reason><s:Detail>` + fmt.Sprintf(`<f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="%d" Machine="web1"><f:Message>%s</f:Message></f:WSManFault>`, code, reason) +
		`</s:Detail></s:Fault></s:Body></s:Envelope>`)
}

func fault(subcode string, code uint32, reason string) (int, []byte) {
	return http.StatusInternalServerError, Fault(subcode, code, reason)
}
