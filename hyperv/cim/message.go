package cim

import (
	"encoding/xml"
	"fmt"
	"strings"
	"time"
)

// Actions and names of DSP0226, WS-Transfer, WS-Enumeration and [MS-WSMV].
const (
	actionGet       = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get"
	actionPut       = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Put"
	actionEnumerate = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Enumerate"
	actionPull      = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Pull"
	actionRelease   = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Release"

	nsSOAP   = "http://www.w3.org/2003/05/soap-envelope"
	nsAddr   = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
	nsAddr05 = "http://www.w3.org/2005/08/addressing"
	nsEnum   = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
	nsMan    = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
	nsFault  = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"
	nsXSI    = "http://www.w3.org/2001/XMLSchema-instance"
	nsCIM    = "http://schemas.dmtf.org/wbem/wscim/1/common"

	resourceBase = "http://schemas.microsoft.com/wbem/wsman/1/wmi/"
	anonymous    = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous"
	dialectWQL   = "http://schemas.microsoft.com/wbem/wsman/1/WQL"
)

// message is a request.
type message struct {
	action, resource string
	selectors        []Key
	body             strings.Builder

	to, id  string
	timeout time.Duration
	atMost  time.Duration // of timeout; zero: the client's
}

func (m *message) bytes() []byte {
	var b strings.Builder
	b.WriteString(`<s:Envelope xmlns:s="` + nsSOAP + `" xmlns:a="` + nsAddr + `" xmlns:w="` + nsMan + `" xmlns:n="` + nsEnum +
		`" xmlns:b="http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd" xmlns:c="` + nsCIM + `" xmlns:i="` + nsXSI +
		`" xmlns:m="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd"><s:Header>`)
	fmt.Fprintf(&b, `<a:To>%s</a:To><w:ResourceURI s:mustUnderstand="true">%s</w:ResourceURI>`, escape(m.to), escape(m.resource))
	b.WriteString(`<a:ReplyTo><a:Address s:mustUnderstand="true">` + anonymous + `</a:Address></a:ReplyTo>`)
	fmt.Fprintf(&b, `<a:Action s:mustUnderstand="true">%s</a:Action><a:MessageID>uuid:%s</a:MessageID>`, escape(m.action), m.id)
	fmt.Fprintf(&b, `<w:MaxEnvelopeSize s:mustUnderstand="true">%d</w:MaxEnvelopeSize>`, envelope)
	b.WriteString(`<w:Locale xml:lang="en-US" s:mustUnderstand="false"/><m:DataLocale xml:lang="en-US" s:mustUnderstand="false"/>`)
	fmt.Fprintf(&b, `<w:OperationTimeout>PT%.3fS</w:OperationTimeout>`, m.timeout.Seconds())
	writeSelectors(&b, m.selectors)
	b.WriteString(`</s:Header><s:Body>` + m.body.String() + `</s:Body></s:Envelope>`)
	return []byte(b.String())
}

// writeSelectors names an instance by its keys; a key may be a reference itself.
func writeSelectors(b *strings.Builder, keys []Key) {
	if len(keys) == 0 {
		return
	}
	b.WriteString(`<w:SelectorSet>`)
	for _, k := range keys {
		fmt.Fprintf(b, `<w:Selector Name="%s">`, escape(k.Name))
		if k.Ref != nil {
			b.WriteString(`<a:EndpointReference>`)
			writeReference(b, *k.Ref)
			b.WriteString(`</a:EndpointReference>`)
		} else {
			b.WriteString(escape(k.Value))
		}
		b.WriteString(`</w:Selector>`)
	}
	b.WriteString(`</w:SelectorSet>`)
}

// writeReference is the content of an endpoint reference: DSP0226 5.1.2, DSP0230 7.2.5.7.
func writeReference(b *strings.Builder, r Ref) {
	fmt.Fprintf(b, `<a:Address>%s</a:Address><a:ReferenceParameters><w:ResourceURI>%s</w:ResourceURI>`, anonymous, escape(r.resource()))
	writeSelectors(b, r.Keys)
	b.WriteString(`</a:ReferenceParameters>`)
}

// properties writes the body of Put.
func (m *message) properties(class string, list []Property) error {
	return m.element(class, m.resource, list)
}

// element writes values as children of an element in a class's own namespace.
func (m *message) element(name, space string, list []Property) error {
	if !isName(name) {
		return fmt.Errorf("%w: %.100q is no name", ErrArgument, name)
	}
	fmt.Fprintf(&m.body, `<p:%s xmlns:p="%s">`, name, escape(space))
	for _, p := range list {
		if !isName(p.Name) {
			return fmt.Errorf("%w: %.100q is no name", ErrArgument, p.Name)
		}
		if err := writeValue(&m.body, p); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	fmt.Fprintf(&m.body, `</p:%s>`, name)
	return nil
}

// isName lets through what names of CIM are made of: DSP0004 5.1.2.8, of which only ASCII occurs.
func isName(s string) bool {
	if s == "" || len(s) > 256 || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !(r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9')
	})
}

func escape(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s))
	return b.String()
}
