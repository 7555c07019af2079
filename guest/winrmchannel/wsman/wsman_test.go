package wsman

import (
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the requests to testdata")

// The requests lie in testdata, where a person can hold them against [MS-WSMV] section 4.
func TestRequestsAreGolden(t *testing.T) {
	r := &Requests{URL: "https://web1:5986/wsman?a&b", Envelope: 153600, Timeout: 20 * time.Second, ID: func() string { return "ID" }}
	const shell, cmd = "SHELL", "COMMAND"
	for name, got := range map[string][]byte{
		"create":    r.Create(3 * time.Minute),
		"command":   r.Command(shell, `"C:\a b.exe"`, `"x&y" <z> ]]>`),
		"send":      r.Send(shell, cmd, []byte("in\x00"), false),
		"send-end":  r.Send(shell, cmd, nil, true),
		"receive":   r.Receive(shell, cmd),
		"terminate": r.Terminate(shell, cmd),
		"delete":    r.Delete(shell),
	} {
		file := "testdata/" + name + ".xml"
		text := strings.ReplaceAll(string(got), "><", ">\n<") + "\n"
		if *update {
			require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, strings.ReplaceAll(string(want), "\r\n", "\n"), text, name)
		d := xml.NewDecoder(strings.NewReader(string(got)))
		for {
			_, err := d.Token()
			if err == io.EOF {
				break
			}
			require.NoError(t, err, name)
		}
	}
	require.Len(t, (&Requests{}).id(), 36)
	require.Less(t, len(r.Send(strings.Repeat("x", maxID), strings.Repeat("x", maxID), nil, true)), Overhead)
}

const (
	open = `<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:rsp="http://schemas.microsoft.com/wbem/wsman/1/windows/shell" ` +
		`xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"><s:Header/><s:Body>`
	end  = `</s:Body></s:Envelope>`
	done = `State="http://schemas.microsoft.com/wbem/wsman/1/windows/shell/CommandState/Done"`
)

func TestAnswers(t *testing.T) {
	id, err := ShellID([]byte(open + `<rsp:Shell><rsp:ShellId>AB-12</rsp:ShellId></rsp:Shell>` + end))
	require.NoError(t, err)
	require.Equal(t, "AB-12", id)
	id, err = ShellID([]byte(open + `<x><w:SelectorSet><w:Selector Name="ShellId"> AB-13 </w:Selector></w:SelectorSet></x>` + end))
	require.NoError(t, err)
	require.Equal(t, "AB-13", id)
	id, err = CommandID([]byte(open + `<rsp:CommandResponse><rsp:CommandId>C</rsp:CommandId></rsp:CommandResponse>` + end))
	require.NoError(t, err)
	require.Equal(t, "C", id)
	out, err := ReadOutput([]byte(open + `<rsp:Stream Name="stdout">YQ==</rsp:Stream><rsp:Stream Name="stderr">Yg==</rsp:Stream>` +
		`<rsp:Stream Name="stdout">Yw==</rsp:Stream><rsp:CommandState ` + done + `><rsp:ExitCode>4294967295</rsp:ExitCode></rsp:CommandState>` + end))
	require.NoError(t, err)
	require.Equal(t, Output{Stdout: []byte("ac"), Stderr: []byte("b"), Done: true, ExitCode: -1}, out)
	out, err = ReadOutput([]byte(open + `<rsp:CommandState State="http://x/CommandState/Running"/>` + end))
	require.NoError(t, err)
	require.Equal(t, Output{}, out)
	require.NoError(t, Check([]byte(open+end)))
}

func TestFaults(t *testing.T) {
	body := func(sub, code string) []byte {
		return []byte(open + `<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>w:` + sub + `</s:Value></s:Subcode></s:Code>` +
			`<s:Reason><s:Text>no</s:Text></s:Reason><s:Detail><f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="` + code +
			`"><f:Message>some  words</f:Message></f:WSManFault></s:Detail></s:Fault>` + end)
	}
	for _, c := range []struct {
		sub, code string
		is        func(*Fault) bool
	}{
		{"TimedOut", "2150858793", (*Fault).TimedOut}, {"x", "2150858793", (*Fault).TimedOut},
		{"AccessDenied", "5", (*Fault).Denied}, {"QuotaLimit", "0", (*Fault).Quota}, {"x", "2147942414", (*Fault).Quota},
		{"InvalidSelectors", "2150858843", (*Fault).ShellGone},
	} {
		err := Check(body(c.sub, c.code))
		var f *Fault
		require.ErrorAs(t, err, &f)
		require.True(t, c.is(f), c)
		require.Contains(t, f.Error(), "some words")
	}
}

func TestMalformed(t *testing.T) {
	for _, s := range []string{"", " ", "x", "<a/>", open, open + end + "<a/>", open + `<rsp:ShellId>a b</rsp:ShellId>` + end,
		open + `<rsp:ShellId></rsp:ShellId>` + end, open + `<rsp:ShellId>` + strings.Repeat("a", 101) + `</rsp:ShellId>` + end,
		open + `<rsp:Stream Name="stdout">!</rsp:Stream>` + end, open + `<rsp:CommandState ` + done + `/>` + end,
		open + `<rsp:CommandState ` + done + `><rsp:ExitCode>99999999999</rsp:ExitCode></rsp:CommandState>` + end,
		`<!DOCTYPE a [<!ENTITY b "c">]>` + open + end, open + strings.Repeat("<a>", 100) + strings.Repeat("</a>", 100) + end} {
		_, err := ShellID([]byte(s))
		require.ErrorIs(t, err, ErrMalformed, s)
		_, err = ReadOutput([]byte(s))
		if !strings.Contains(s, "State") && !strings.Contains(s, "ShellId") {
			require.ErrorIs(t, err, ErrMalformed, s)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(open + `<rsp:Stream Name="stdout">YQ==</rsp:Stream><rsp:CommandState ` + done + `><rsp:ExitCode>1</rsp:ExitCode></rsp:CommandState>` + end))
	f.Add([]byte(open + `<s:Fault><s:Code><s:Subcode><s:Value>w:TimedOut</s:Value></s:Subcode></s:Code></s:Fault>` + end))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := ReadOutput(b)
		var fault *Fault
		if err != nil && !errors.Is(err, ErrMalformed) && !errors.As(err, &fault) {
			t.Fatal(err)
		}
		require.LessOrEqual(t, len(out.Stdout), len(b))
	})
}
