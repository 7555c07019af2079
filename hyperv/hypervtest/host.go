package hypervtest

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/internal/winrm/listener"
)

// Options of a host. Nil and zero fields are good defaults.
type Options struct {
	User, Password string        // who may log on. Empty: eva, with the password "pw"
	TLS            bool          // a certificate of its own; see [Host.Certificate]
	Name           string        // of the machine. Empty: HV1
	Page           int           // instances in an answer at most. Zero: as many as asked for
	JobTime        time.Duration // that a job takes. Zero: 20 ms
	MergeTime      time.Duration // that a merge of one disk takes. Zero: as JobTime
	Late           time.Duration // after which a checkpoint is in listings, from its job's end
	// Generation is 2008r2, 2012, 2012r2, 2016, 2019, 2022 or 2025. Empty: 2022. Classes and methods are those that it has.
	Generation string
	// Dir holds its volumes: Dir/C is C:\, Dir/UNC/fs1/vms is \\fs1\vms. Empty: a temporary one, which Close removes.
	Dir string
	// Changes is how many ranges one list of changes has at most. Zero: 64. Who asks goes on from where the list ends.
	Changes int
	// DropNotes has checkpoints keep no Notes.
	DropNotes bool
	// DropNames has the host name checkpoints itself, whatever name was asked for.
	DropNames bool
	// Before sees each call and may fail it. It is called with one call at a time.
	Before func(c Seen) *Failure
}

// Seen is a call as the host saw it.
type Seen struct {
	N      int    // from 1
	Action string // Get, Put, Enumerate, Pull, Release, or a method's name
	Class  string // * for a query
	Query  string
}

// Host is a fake one.
type Host struct {
	Store
	opts   Options
	door   *listener.Door
	server *httptest.Server

	calls    sync.Mutex
	seen     []Seen
	clear    bool
	contexts map[string]*listing
	made     int
	jobs     []*job
	machine  *Object
	services map[string]*Object
	guests   map[string]*Guest // by GUID in small letters
	gen      generation
	closed   bool

	dir     string
	temp    bool // dir is ours, and goes with the host
	places  sync.Mutex
	mounts  []mount
	ordered []*Guest // in which their locks are taken
	room    *int64   // bytes that are said to be free
	local   *LocalFiles

	diary      sync.Mutex
	events     []Event
	eventsGone int

	faulty sync.Mutex
	faults []*fault
	aside  sync.WaitGroup // what faults do
	wakes  sync.WaitGroup // what jobs wait for
	beside beside
	vss    vssHook
}

// listing is an enumeration under way.
type listing struct {
	items []string
}

// Start starts one on 127.0.0.1.
func Start(opts *Options) (*Host, error) {
	h := &Host{contexts: map[string]*listing{}, services: map[string]*Object{}, guests: map[string]*Guest{}}
	if opts != nil {
		h.opts = *opts
	}
	if h.opts.User == "" {
		h.opts.User, h.opts.Password = "eva", "pw"
	}
	if h.opts.Name == "" {
		h.opts.Name = "HV1"
	}
	if h.opts.JobTime <= 0 {
		h.opts.JobTime = 20 * time.Millisecond
	}
	if h.opts.MergeTime <= 0 {
		h.opts.MergeTime = h.opts.JobTime
	}
	if h.opts.Changes <= 0 {
		h.opts.Changes = 64
	}
	var err error
	if h.gen, err = generationOf(h.opts.Generation); err != nil {
		return nil, err
	}
	if err := h.ground(); err != nil {
		return nil, err
	}
	h.classes = map[string]*Class{}
	h.seed()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, h.raze())
	}
	h.door = listener.New(listener.Options{User: h.opts.User, Password: h.opts.Password, TLS: h.opts.TLS})
	h.server = &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(h.serve), ConnContext: h.door.Context,
		ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: 10 * time.Second}}
	if h.opts.TLS {
		h.server.StartTLS()
	} else {
		h.server.Start()
	}
	return h, nil
}

// ground makes the folder of the volumes.
func (h *Host) ground() (err error) {
	if h.dir = h.opts.Dir; h.dir == "" {
		h.temp = true
		h.dir, err = os.MkdirTemp("", "hypervtest")
	}
	if err == nil {
		h.dir, err = filepath.EvalSymlinks(h.dir)
	}
	if err == nil {
		err = os.MkdirAll(filepath.Join(h.dir, "C"), 0o755)
	}
	return err
}

func (h *Host) raze() error {
	if h.temp {
		return os.RemoveAll(h.dir)
	}
	return nil
}

// Close ends it. Disks are closed in good order; the volumes go where they were made by Start.
func (h *Host) Close() {
	h.beside.close()
	defer h.vss.close()
	h.server.CloseClientConnections()
	h.server.Close()
	h.Lock()
	h.closed = true
	for _, j := range h.jobs {
		j.stop(h)
	}
	h.jobs = nil
	h.Unlock()
	h.wakes.Wait()
	h.aside.Wait()
	for _, g := range h.ordered {
		g.mu.Lock()
		g.on = false
		for _, d := range g.drives {
			d.shut() // the folder is about to go, or is the test's to judge
		}
		g.mu.Unlock()
	}
	h.raze()
}

// Dir is the folder of this machine that holds the host's volumes.
func (h *Host) Dir() string { return h.dir }

// Addr is HOST:PORT.
func (h *Host) Addr() string { return h.server.Listener.Addr().String() }

// Certificate is that of TLS, as DER.
func (h *Host) Certificate() []byte { return h.server.Certificate().Raw }

// Seen are the calls so far; Clear says that one came unencrypted and without TLS; Open counts enumerations under way.
func (h *Host) Seen() []Seen { h.calls.Lock(); defer h.calls.Unlock(); return slices.Clone(h.seen) }

// Clear says that a message came unencrypted and without TLS.
func (h *Host) Clear() bool { h.calls.Lock(); defer h.calls.Unlock(); return h.clear }

// Open counts the enumerations that are neither at their end nor released.
func (h *Host) Open() int { h.Lock(); defer h.Unlock(); return len(h.contexts) }

func (h *Host) serve(w http.ResponseWriter, r *http.Request) {
	in := h.door.Enter(w, r)
	if in == nil {
		return
	}
	req := &request{}
	if err := xml.Unmarshal(in.Message, req); err != nil || !strings.HasSuffix(r.URL.Path, "/wsman") {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	f := h.note(req, in.Clear)
	if f == nil {
		f = h.wireFault(req.Header.Action[strings.LastIndexByte(req.Header.Action, '/')+1:])
	}
	switch {
	case f == nil:
	case f.Forget:
		h.door.Forget(w, r)
		return
	case f.Cut:
		listener.Cut(w)
		return
	case f.Body != nil:
		in.Answer(http.StatusOK, f.Body)
		return
	case f.Subcode != "":
		in.Answer(http.StatusInternalServerError, f.document(req))
		return
	}
	body, failed := h.answer(req)
	if f != nil && f.Lose {
		listener.Cut(w)
		return
	}
	if failed != nil {
		in.Answer(http.StatusInternalServerError, failed.document(req))
		return
	}
	action := req.Header.Action + "Response"
	if answer := reply(req, action, body); len(answer) <= max(req.Header.Envelope, 8192) {
		in.Answer(http.StatusOK, answer)
		return
	}
	in.Answer(http.StatusInternalServerError, (&Failure{Subcode: "EncodingLimit", Reason: "the answer is larger than MaxEnvelopeSize"}).document(req))
}

// note counts a call and asks whether it fails.
func (h *Host) note(r *request, clear bool) *Failure {
	h.calls.Lock()
	defer h.calls.Unlock()
	_, class := place(r.Header.Resource)
	s := Seen{N: len(h.seen) + 1, Action: r.Header.Action[strings.LastIndexByte(r.Header.Action, '/')+1:], Class: class}
	if e := r.Body.Enumerate; e != nil && e.Filter != nil {
		s.Query = e.Filter.Text
	}
	h.seen = append(h.seen, s)
	h.clear = h.clear || clear
	if h.opts.Before == nil {
		return nil
	}
	return h.opts.Before(s)
}

func (h *Host) answer(r *request) (string, *Failure) {
	h.Lock()
	defer h.Unlock()
	h.tick(time.Now())
	if r.Header.MessageID == "" || r.Header.ReplyTo == "" || r.Header.To == "" {
		return "", &Failure{Subcode: "InvalidMessage", Reason: "a header is missing"}
	}
	namespace, class := place(r.Header.Resource)
	if h.gen.hidden(namespace) || strings.EqualFold(namespace, ClusterNamespace) && h.beside.cluster == nil {
		return "", &Failure{Subcode: "DestinationUnreachable", Code: 2150858752, HRESULT: 0x8004100E, Reason: "Invalid namespace"}
	}
	h.mirrorV1(namespace)
	if !strings.HasPrefix(r.Header.Resource, wmiBase) || class != "*" && h.classes[key(namespace, class)] == nil {
		return "", missing(errClass)
	}
	switch r.Header.Action {
	case enumBase + "Enumerate":
		return h.enumerate(r, namespace, class)
	case enumBase + "Pull":
		return h.pull(r)
	case enumBase + "Release":
		delete(h.contexts, r.Body.Release.Context)
		return "", nil
	}
	o := h.find(namespace, class, r.keys())
	if o == nil {
		return "", missing(errObject)
	}
	switch r.Header.Action {
	case transfer + "Get":
		return h.objectXML(o, nil), nil
	case transfer + "Put":
		return h.put(r, o)
	}
	return h.invoke(r, o)
}

func missing(err error) *Failure {
	if errors.Is(err, errWQL) {
		return &Failure{Subcode: "CannotProcessFilter", Code: 2150858819, HRESULT: 0x80041017, Reason: "The WQL query is invalid."}
	}
	code := uint32(0x80041002)
	if errors.Is(err, errClass) {
		code = 0x80041010
	}
	return &Failure{Subcode: "DestinationUnreachable", Code: 2150858752, HRESULT: code, Reason: err.Error()}
}

func (h *Host) enumerate(r *request, namespace, class string) (string, *Failure) {
	e := r.Body.Enumerate
	if e == nil {
		return "", &Failure{Subcode: "InvalidMessage", Reason: "nothing to enumerate"}
	}
	query := "SELECT * FROM " + class
	if e.Filter != nil {
		if query = e.Filter.Text; e.Filter.Dialect != wqlName {
			return "", &Failure{Subcode: "FilterDialectRequestedUnavailable", Reason: "this dialect is not here"}
		}
	}
	found, names, err := h.query(namespace, query)
	if err != nil {
		return "", missing(err)
	}
	l := &listing{}
	for _, o := range found {
		if e.Poly == "None" && !strings.EqualFold(o.Class, class) {
			continue
		}
		item := h.objectXML(o, names)
		if e.Mode == "EnumerateObjectAndEPR" {
			item = `<w:Item>` + item + `<a:EndpointReference>` + h.eprParts(o) + `</a:EndpointReference></w:Item>`
		}
		l.items = append(l.items, item)
	}
	h.made++
	id := fmt.Sprintf("uuid:%08d-0000-4000-8000-000000000000", h.made)
	h.contexts[id] = l
	page, failed := h.page(id, l, e.Max, r.Header.Envelope, "w:")
	if failed != nil {
		delete(h.contexts, id) // nobody learns of it
	}
	return `<n:EnumerateResponse>` + page + `</n:EnumerateResponse>`, failed
}

func (h *Host) pull(r *request) (string, *Failure) {
	p := r.Body.Pull
	l := h.contexts[p.Context]
	if l == nil {
		return "", &Failure{Subcode: "InvalidEnumerationContext", Reason: "no such enumeration"}
	}
	page, failed := h.page(p.Context, l, max(p.Max, 1), r.Header.Envelope, "n:")
	return `<n:PullResponse>` + page + `</n:PullResponse>`, failed
}

// page gives as many as are asked for and as fit. One that never fits stays, and with it the enumeration.
func (h *Host) page(id string, l *listing, most, envelope int, prefix string) (string, *Failure) {
	if h.opts.Page > 0 {
		most = min(most, h.opts.Page)
	}
	n, size := 0, 4096
	for n < min(most, len(l.items)) && size+len(l.items[n]) < envelope {
		size += len(l.items[n])
		n++
	}
	if n == 0 && min(most, len(l.items)) > 0 {
		return "", &Failure{Subcode: "EncodingLimit", Reason: "an instance is larger than MaxEnvelopeSize"}
	}
	items := strings.Join(l.items[:n], "")
	l.items = l.items[n:]
	end := ""
	if len(l.items) == 0 {
		delete(h.contexts, id)
		id, end = "", `<`+prefix+`EndOfSequence/>`
	}
	return `<n:EnumerationContext>` + id + `</n:EnumerationContext><` + prefix + `Items>` + items + `</` + prefix + `Items>` + end, nil
}

func (h *Host) put(r *request, o *Object) (string, *Failure) {
	if r.Body.Any == nil || r.Body.Any.XMLName.Local != o.Class {
		return "", &Failure{Subcode: "SchemaValidationError", Reason: "another class"}
	}
	for _, p := range r.Body.Any.Elements {
		if _, ok := o.Values[p.XMLName.Local]; !ok {
			return "", &Failure{Subcode: "SchemaValidationError", Reason: "no property " + p.XMLName.Local}
		}
		if p.Nil == "true" {
			o.Set(p.XMLName.Local, nil)
		} else {
			o.Set(p.XMLName.Local, p.Text)
		}
	}
	return h.objectXML(o, nil), nil
}

func (h *Host) invoke(r *request, o *Object) (string, *Failure) {
	method, ok := strings.CutPrefix(r.Header.Action, r.Header.Resource+"/")
	m := h.methodOf(o, method)
	if !ok || m == nil || r.Body.Any == nil || r.Body.Any.XMLName.Local != method+"_INPUT" || r.Body.Any.XMLName.Space != r.Header.Resource {
		return "", &Failure{Subcode: "ActionNotSupported", HRESULT: 0x80041055, Reason: "no method " + method}
	}
	c := &Call{Host: h, Object: o, Method: method, In: map[string][]string{}, Refs: map[string]*Object{}, Lists: map[string][]*Object{}}
	for _, a := range r.Body.Any.Elements {
		name := a.XMLName.Local
		switch {
		case a.Nil == "true":
		case a.Resource != "":
			ns, class := place(a.Resource)
			if c.Refs[name] = h.find(ns, class, keysIn(a.Selectors)); c.Refs[name] == nil {
				return "", missing(errObject)
			}
			c.Lists[name] = append(c.Lists[name], c.Refs[name])
		case a.Wrapped != "":
			c.In[name] = append(c.In[name], a.Wrapped)
		default:
			c.In[name] = append(c.In[name], a.Text)
		}
	}
	code, out := h.run(c, m)
	var b strings.Builder
	fmt.Fprintf(&b, `<p:%s_OUTPUT xmlns:p="%s">`, method, r.Header.Resource)
	for i := 0; i+1 < len(out); i += 2 {
		h.valueXML(&b, "p:"+out[i].(string), out[i+1])
	}
	fmt.Fprintf(&b, `<p:ReturnValue>%d</p:ReturnValue></p:%s_OUTPUT>`, code, method)
	return b.String(), nil
}
