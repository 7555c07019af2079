package wsman

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"strings"
	"time"
)

// Actions of requests.
const (
	create  = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Create"
	remove  = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Delete"
	command = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/Command"
	send    = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/Send"
	receive = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/Receive"
	signal  = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/Signal"
)

const terminate = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/signal/terminate"

// Overhead bounds the bytes of a message of [Requests.Send] besides its data, whose base64 takes 4 bytes for 3.
const Overhead = 4096

// Requests writes messages for one service.
type Requests struct {
	URL      string        // of the service
	Envelope int           // bytes of the largest answer
	Timeout  time.Duration // after which the peer answers that nothing happened
	// ID makes an identifier for each message. Nil: a random one.
	ID func() string
}

// option is one of a message's.
type option struct{ name, value string }

func (r *Requests) message(action, shell string, options []option, body string) []byte {
	var b strings.Builder
	b.WriteString(`<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" ` +
		`xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd" ` +
		`xmlns:rsp="http://schemas.microsoft.com/wbem/wsman/1/windows/shell"><s:Header>`)
	fmt.Fprintf(&b, `<a:To>%s</a:To>`, escape(r.URL))
	b.WriteString(`<a:ReplyTo><a:Address s:mustUnderstand="true">http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo>`)
	fmt.Fprintf(&b, `<a:Action s:mustUnderstand="true">%s</a:Action><a:MessageID>uuid:%s</a:MessageID>`, action, escape(r.id()))
	fmt.Fprintf(&b, `<w:MaxEnvelopeSize s:mustUnderstand="true">%d</w:MaxEnvelopeSize>`, r.Envelope)
	b.WriteString(`<w:Locale xml:lang="en-US" s:mustUnderstand="false"/><p:DataLocale xml:lang="en-US" s:mustUnderstand="false"/>`)
	fmt.Fprintf(&b, `<w:OperationTimeout>PT%.3fS</w:OperationTimeout>`, r.Timeout.Seconds())
	b.WriteString(`<w:ResourceURI s:mustUnderstand="true">http://schemas.microsoft.com/wbem/wsman/1/windows/shell/cmd</w:ResourceURI>`)
	if shell != "" {
		fmt.Fprintf(&b, `<w:SelectorSet><w:Selector Name="ShellId">%s</w:Selector></w:SelectorSet>`, escape(shell))
	}
	if len(options) > 0 {
		b.WriteString(`<w:OptionSet s:mustUnderstand="true">`)
		for _, o := range options {
			fmt.Fprintf(&b, `<w:Option Name="%s">%s</w:Option>`, o.name, o.value)
		}
		b.WriteString(`</w:OptionSet>`)
	}
	b.WriteString(`</s:Header><s:Body>` + body + `</s:Body></s:Envelope>`)
	return []byte(b.String())
}

func (r *Requests) id() string {
	if r.ID != nil {
		return r.ID()
	}
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%X-%X-%X-%X-%X", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func escape(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s))
	return b.String()
}

// Create asks for a shell that ends by itself when nothing was heard of it for a time.
func (r *Requests) Create(idle time.Duration) []byte {
	options := []option{{"WINRS_NOPROFILE", "TRUE"}, {"WINRS_CODEPAGE", "65001"}}
	return r.message(create, "", options, fmt.Sprintf(`<rsp:Shell><rsp:InputStreams>stdin</rsp:InputStreams>`+
		`<rsp:OutputStreams>stdout stderr</rsp:OutputStreams><rsp:IdleTimeOut>PT%.3fS</rsp:IdleTimeOut></rsp:Shell>`, idle.Seconds()))
}

// Command starts a program without cmd between us and it. Line is the rest of its command line, quoted as it reads it. Its
// input is a pipe, not a console, so that bytes stay as they are.
func (r *Requests) Command(shell, program, line string) []byte {
	options := []option{{"WINRS_CONSOLEMODE_STDIN", "FALSE"}, {"WINRS_SKIP_CMD_SHELL", "TRUE"}}
	body := `<rsp:CommandLine><rsp:Command>` + escape(program) + `</rsp:Command>`
	if line != "" {
		body += `<rsp:Arguments>` + escape(line) + `</rsp:Arguments>`
	}
	return r.message(command, shell, options, body+`</rsp:CommandLine>`)
}

// Send is input for a command. End says that none will follow.
func (r *Requests) Send(shell, command string, data []byte, end bool) []byte {
	last := ""
	if end {
		last = ` End="true"`
	}
	return r.message(send, shell, nil, fmt.Sprintf(`<rsp:Send><rsp:Stream Name="stdin" CommandId="%s"%s>%s</rsp:Stream></rsp:Send>`,
		escape(command), last, base64.StdEncoding.EncodeToString(data)))
}

// Receive asks for output. Where there is none within the timeout the answer is a Fault for which [Fault.TimedOut] is true.
func (r *Requests) Receive(shell, command string) []byte {
	return r.message(receive, shell, nil, fmt.Sprintf(`<rsp:Receive><rsp:DesiredStream CommandId="%s">stdout stderr</rsp:DesiredStream></rsp:Receive>`,
		escape(command)))
}

// Terminate ends a command.
func (r *Requests) Terminate(shell, command string) []byte {
	return r.message(signal, shell, nil, fmt.Sprintf(`<rsp:Signal CommandId="%s"><rsp:Code>%s</rsp:Code></rsp:Signal>`, escape(command), terminate))
}

// Delete ends a shell and all that runs in it.
func (r *Requests) Delete(shell string) []byte { return r.message(remove, shell, nil, "") }
