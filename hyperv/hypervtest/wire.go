package hypervtest

import (
	"encoding/xml"
	"fmt"
	"reflect"
	"strings"
	"time"
)

const (
	wmiBase  = "http://schemas.microsoft.com/wbem/wsman/1/wmi/"
	transfer = "http://schemas.xmlsoap.org/ws/2004/09/transfer/"
	enumBase = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/"
	wqlName  = "http://schemas.microsoft.com/wbem/wsman/1/WQL"
)

type selector struct {
	Name  string `xml:"Name,attr"`
	Value string `xml:",chardata"`
}

type reference struct {
	Resource  string     `xml:"ReferenceParameters>ResourceURI"`
	Selectors []selector `xml:"ReferenceParameters>SelectorSet>Selector"`
}

// request is what is looked at of a message.
type request struct {
	XMLName xml.Name `xml:"http://www.w3.org/2003/05/soap-envelope Envelope"`
	Header  struct {
		To        string     `xml:"http://schemas.xmlsoap.org/ws/2004/08/addressing To"`
		Action    string     `xml:"http://schemas.xmlsoap.org/ws/2004/08/addressing Action"`
		MessageID string     `xml:"http://schemas.xmlsoap.org/ws/2004/08/addressing MessageID"`
		ReplyTo   string     `xml:"http://schemas.xmlsoap.org/ws/2004/08/addressing ReplyTo>Address"`
		Resource  string     `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd ResourceURI"`
		Envelope  int        `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd MaxEnvelopeSize"`
		Timeout   string     `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd OperationTimeout"`
		Selectors []selector `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd SelectorSet>Selector"`
	} `xml:"http://www.w3.org/2003/05/soap-envelope Header"`
	Body struct {
		Enumerate *struct {
			Max    int    `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd MaxElements"`
			Mode   string `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd EnumerationMode"`
			Poly   string `xml:"http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd PolymorphismMode"`
			Filter *struct {
				Dialect string `xml:"Dialect,attr"`
				Text    string `xml:",chardata"`
			} `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd Filter"`
		} `xml:"http://schemas.xmlsoap.org/ws/2004/09/enumeration Enumerate"`
		Pull *struct {
			Context string `xml:"http://schemas.xmlsoap.org/ws/2004/09/enumeration EnumerationContext"`
			Max     int    `xml:"http://schemas.xmlsoap.org/ws/2004/09/enumeration MaxElements"`
		} `xml:"http://schemas.xmlsoap.org/ws/2004/09/enumeration Pull"`
		Release *struct {
			Context string `xml:"http://schemas.xmlsoap.org/ws/2004/09/enumeration EnumerationContext"`
		} `xml:"http://schemas.xmlsoap.org/ws/2004/09/enumeration Release"`
		Any *struct {
			XMLName  xml.Name
			Elements []argument `xml:",any"`
		} `xml:",any"`
	} `xml:"http://www.w3.org/2003/05/soap-envelope Body"`
}

// argument is an in-parameter or a property.
type argument struct {
	XMLName xml.Name
	Nil     string `xml:"http://www.w3.org/2001/XMLSchema-instance nil,attr"`
	Text    string `xml:",chardata"`
	Wrapped string `xml:"http://schemas.dmtf.org/wbem/wscim/1/common Datetime"`
	reference
}

func (r *request) keys() map[string]string { return keysIn(r.Header.Selectors) }

func keysIn(list []selector) map[string]string {
	m := map[string]string{}
	for _, s := range list {
		if s.Name != "__cimnamespace" {
			m[s.Name] = s.Value
		}
	}
	return m
}

// place parts a resource into namespace and class.
func place(resource string) (namespace, class string) {
	rest, _ := strings.CutPrefix(resource, wmiBase)
	i := strings.LastIndexByte(rest, '/')
	return rest[:max(i, 0)], rest[i+1:]
}

func esc(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s))
	return b.String()
}

// objectXML writes an instance. With names only those are sent.
func (s *Store) objectXML(o *Object, names []string) string {
	var b strings.Builder
	uri := wmiBase + o.Namespace + "/" + o.Class
	fmt.Fprintf(&b, `<p:%s xmlns:p="%s" xsi:type="p:%s_Type">`, o.Class, uri, o.Class)
	for _, n := range o.Names {
		if len(names) > 0 && !contains(names, n) {
			continue
		}
		s.valueXML(&b, "p:"+n, o.Values[n])
	}
	fmt.Fprintf(&b, `</p:%s>`, o.Class)
	return b.String()
}

func contains(list []string, name string) bool {
	for _, n := range list {
		if strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}

func (s *Store) valueXML(b *strings.Builder, name string, v any) {
	switch v := v.(type) {
	case nil:
		fmt.Fprintf(b, `<%s xsi:nil="true"/>`, name)
	case *Object:
		fmt.Fprintf(b, `<%s>%s</%s>`, name, s.eprParts(v), name)
	case Inline:
		fmt.Fprintf(b, `<%s xmlns:i="%s%s/%s" xsi:type="i:%s_Type">`, name, wmiBase, ClusterNamespace, v.Class, v.Class)
		for _, n := range v.Names {
			s.valueXML(b, "i:"+n, v.Values[n])
		}
		fmt.Fprintf(b, `</%s>`, name)
	case Embedded:
		fmt.Fprintf(b, `<%s>%s</%s>`, name, esc(v.xml()), name)
	case time.Time:
		fmt.Fprintf(b, `<%s><cim:Datetime>%s</cim:Datetime></%s>`, name, v.UTC().Format("2006-01-02T15:04:05.999999Z"), name)
	default:
		if r := reflect.ValueOf(v); r.Kind() == reflect.Slice {
			for i := range r.Len() {
				s.valueXML(b, name, r.Index(i).Interface())
			}
			return
		}
		fmt.Fprintf(b, `<%s>%s</%s>`, name, esc(fmt.Sprint(v)), name)
	}
}

func (s *Store) eprParts(o *Object) string {
	var b strings.Builder
	fmt.Fprintf(&b, `<a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address><a:ReferenceParameters>`+
		`<w:ResourceURI>%s%s/%s</w:ResourceURI><w:SelectorSet><w:Selector Name="__cimnamespace">%s</w:Selector>`, wmiBase, o.Namespace, o.Class, o.Namespace)
	for _, k := range s.keysOf(o.Namespace, o.Class) {
		v, _ := o.text(k)
		fmt.Fprintf(&b, `<w:Selector Name="%s">%s</w:Selector>`, k, esc(v))
	}
	b.WriteString(`</w:SelectorSet></a:ReferenceParameters>`)
	return b.String()
}

// xml is the object as WMI writes it in text, with what a reader passes over.
func (e Embedded) xml() string {
	var b strings.Builder
	fmt.Fprintf(&b, `<INSTANCE CLASSNAME="%s"><QUALIFIER NAME="dynamic" TYPE="boolean"><VALUE>TRUE</VALUE></QUALIFIER>`, e.Class)
	for _, n := range e.Names {
		v := e.Values[n]
		if v == nil {
			fmt.Fprintf(&b, `<PROPERTY NAME="%s" TYPE="string"></PROPERTY>`, n)
			continue
		}
		if r := reflect.ValueOf(v); r.Kind() == reflect.Slice {
			fmt.Fprintf(&b, `<PROPERTY.ARRAY NAME="%s" TYPE="%s"><VALUE.ARRAY>`, n, kindOf(r.Type().Elem()))
			for i := range r.Len() {
				fmt.Fprintf(&b, `<VALUE>%s</VALUE>`, esc(cimText(r.Index(i).Interface())))
			}
			b.WriteString(`</VALUE.ARRAY></PROPERTY.ARRAY>`)
			continue
		}
		fmt.Fprintf(&b, `<PROPERTY NAME="%s" CLASSORIGIN="%s" TYPE="%s"><VALUE>%s</VALUE></PROPERTY>`, n, e.Class, kindOf(reflect.TypeOf(v)), esc(cimText(v)))
	}
	b.WriteString(`</INSTANCE>`)
	return b.String()
}

// kindOf is CIM's name of a Go type.
func kindOf(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return "datetime"
	case t.Kind() == reflect.Bool:
		return "boolean"
	case t.Kind() == reflect.String:
		return "string"
	}
	return strings.Replace(strings.Replace(t.Kind().String(), "int", "sint", 1), "usint", "uint", 1)
}

// cimText is a value in CIM-XML.
func cimText(v any) string {
	switch v := v.(type) {
	case bool:
		return strings.ToUpper(fmt.Sprint(v))
	case time.Time:
		return v.UTC().Format("20060102150405.000000") + "+000"
	}
	return fmt.Sprint(v)
}

const envelopeHead = `<s:Envelope xml:lang="en-US" xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" ` +
	`xmlns:n="http://schemas.xmlsoap.org/ws/2004/09/enumeration" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" ` +
	`xmlns:cim="http://schemas.dmtf.org/wbem/wscim/1/common" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">`

func reply(r *request, action, body string) []byte {
	return []byte(envelopeHead + `<s:Header><a:Action>` + esc(action) + `</a:Action><a:MessageID>uuid:00000000-0000-4000-8000-000000000001</a:MessageID>` +
		`<a:To>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:To><a:RelatesTo>` + esc(r.Header.MessageID) +
		`</a:RelatesTo></s:Header><s:Body>` + body + `</s:Body></s:Envelope>`)
}

// Failure is what a call answers in place of what it would. The zero value is no failure.
type Failure struct {
	Subcode string // TimedOut, AccessDenied …; empty with one of the others below
	Code    uint32 // of WS-Management
	HRESULT uint32 // of WMI, told as a provider's fault
	Reason  string
	Cut     bool // the connection ends with no answer, and nothing is done
	Lose    bool // it ends with no answer, and it was done
	Forget  bool // the logon of the connection is forgotten
	Body    []byte
}

func (f *Failure) document(r *request) []byte {
	detail := fmt.Sprintf(`<f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="%d" Machine="hv1"><f:Message>`, f.Code)
	if f.HRESULT != 0 {
		detail += fmt.Sprintf(`<f:ProviderFault provider="WMI Provider" path="WsmWmiPl.dll"><f:WSManFault Code="%d" Machine="hv1"><f:Message>%s</f:Message></f:WSManFault></f:ProviderFault>`,
			f.HRESULT, esc(f.Reason))
	} else {
		detail += esc(f.Reason)
	}
	detail += `</f:Message></f:WSManFault>`
	return reply(r, "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault", `<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>w:`+f.Subcode+
		`</s:Value></s:Subcode></s:Code><s:Reason><s:Text xml:lang="en-US">`+esc(f.Reason)+`</s:Text></s:Reason><s:Detail>`+detail+`</s:Detail></s:Fault>`)
}
