package vmwaretest

import (
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// The cookies that open a datastore's files.
const (
	sessionCookie = "vmware_soap_session"
	ticketCookie  = "vmware_cgi_ticket"
)

// ticketLife is how long a generic service ticket is good for. Real ones are said to live about two minutes.
const ticketLife = 2 * time.Minute

// serviceTickets are those that AcquireGenericServiceTicket handed out: each is for one request, by its method and address.
type serviceTickets struct {
	mu   sync.Mutex
	open map[string]serviceTicket
}

type serviceTicket struct {
	method, path, query string
	until               time.Time
}

// add makes a ticket for a request. It says no where the address or the method is none.
func (t *serviceTickets) add(spec *types.SessionManagerHttpServiceRequestSpec, now time.Time) (string, bool) {
	u, err := url.Parse(spec.Url)
	if err != nil || u.Path == "" {
		return "", false
	}
	method, ok := strings.CutPrefix(strings.ToLower(spec.Method), "http")
	if !ok && spec.Method != "" {
		return "", false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = map[string]serviceTicket{}
	}
	for id, old := range t.open {
		if now.After(old.until) {
			delete(t.open, id)
		}
	}
	id := rand.Text()
	t.open[id] = serviceTicket{method: strings.ToUpper(method), path: u.Path, query: u.Query().Encode(), until: now.Add(ticketLife)}
	return id, true
}

// spend takes a ticket, if it is for this request.
func (t *serviceTickets) spend(id string, r *http.Request, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	ticket, ok := t.open[id]
	if !ok {
		return false
	}
	delete(t.open, id)
	method := ticket.method == "" || ticket.method == r.Method
	return method && ticket.path == r.URL.Path && ticket.query == r.URL.Query().Encode() && now.Before(ticket.until)
}

// allowed reports whether a request may touch a datastore's files: by the cookie of a session that lives, by a ticket that was
// made for this very request, or by name and password.
func (f *folder) allowed(r *http.Request) bool {
	now := time.Now()
	if c, err := r.Cookie(sessionCookie); err == nil && f.sessionLives(strings.Trim(c.Value, `"`), now) {
		return true
	}
	if c, err := r.Cookie(ticketCookie); err == nil && f.tickets.spend(c.Value, r, now) {
		return true
	}
	user, password, ok := r.BasicAuth()
	return ok && f.s.mayLogin(&types.Login{UserName: user, Password: password})
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// sessionLives reports whether a session is there, and is young enough for files: its cookie opens them for a time only, however
// busy the session is.
func (f *folder) sessionLives(key string, now time.Time) bool {
	for _, session := range f.s.sessionList() {
		if equal(session.Key, key) {
			life := time.Duration(f.cookieLife.Load())
			return life <= 0 || now.Sub(session.LoginTime) < life
		}
	}
	return false
}

// sessionCalls are the calls on sessions.
type sessionCalls struct{ overlaid }

// AcquireGenericServiceTicket hands out a ticket for one request.
func (c *sessionCalls) AcquireGenericServiceTicket(req *types.AcquireGenericServiceTicket) soap.HasFault {
	body := new(methods.AcquireGenericServiceTicketBody)
	spec, ok := req.Spec.(*types.SessionManagerHttpServiceRequestSpec)
	if !ok {
		body.Fault_ = simulator.Fault("", &types.InvalidArgument{InvalidProperty: "spec"})
		return body
	}
	id, ok := c.s.extras.folder.tickets.add(spec, time.Now())
	if !ok {
		body.Fault_ = simulator.Fault("", &types.InvalidArgument{InvalidProperty: "spec.url"})
		return body
	}
	body.Res = &types.AcquireGenericServiceTicketResponse{Returnval: types.SessionManagerGenericServiceTicket{
		Id: id, HostName: c.s.sim.URL.Host, SslThumbprint: c.s.ThumbprintSHA1(),
		TicketType: string(types.SessionManagerGenericServiceTicketTicketTypeHttpNfcServiceTicket),
	}}
	return body
}
