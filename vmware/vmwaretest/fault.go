package vmwaretest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Fault is something that goes wrong. Those that were given first are met first; one that is used up is forgotten.
type Fault struct {
	Method string // as on the wire: "RemoveSnapshot_Task"; services have names of their own, as "GET /folder/"; empty: all
	Object string // the value of the object's reference, as "vm-42"; empty: all
	Skip   int    // calls that are let through before
	Times  int    // zero: one; negative: without end

	Delay   time.Duration         // before anything else; of a task where InTask
	Fault   types.BaseMethodFault // what is answered; nil: only the delay, or the status
	InTask  bool                  // the call is taken and its task fails
	After   bool                  // with InTask: what was asked for is done all the same
	Halfway bool                  // with InTask: a snapshot goes and its files stay, so that consolidation is needed
	Status  int                   // of HTTP, instead of an answer: 503 …
	Cut     bool                  // the connection ends instead of an answer
	Lost    bool                  // with Cut: the call is carried out first
	Bytes   int64                 // with Cut, where a service streams: so many bytes come first
}

// Fail makes something go wrong.
func (s *Server) Fail(f Fault) {
	if f.Times == 0 {
		f.Times = 1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
}

// Heal forgets all faults.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// meet takes the fault that a call meets, or nil.
func (s *Server) meet(method, object string, fits func(*Fault) bool) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.faults {
		if f.Method != "" && f.Method != method || f.Object != "" && f.Object != object || !fits(f) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				s.faults = append(s.faults[:i:i], s.faults[i+1:]...)
			}
		}
		out := *f
		return &out
	}
	return nil
}

func onWire(f *Fault) bool { return f.Status != 0 || f.Cut }
func inSOAP(f *Fault) bool { return !onWire(f) }

type faultKey struct{}

// faultOf is the fault that a call's task shall meet.
func faultOf(ctx *simulator.Context) *Fault {
	f, _ := ctx.Context.Value(faultKey{}).(*Fault)
	return f
}

// pause lets time pass, unless the server ends.
func (s *Server) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.stopping:
	}
}

const maxRequest = 16 << 20

// frontHTTP stands before SOAP, for what goes wrong below it.
func (s *Server) frontHTTP(service *simulator.Service) {
	service.RegisterSDK(s.reg, s.reg.Path+"/vimService")
	service.ServeMux.HandleFunc("POST "+s.reg.Path, func(w http.ResponseWriter, r *http.Request) { s.serveSDK(service, w, r) })
}

func (s *Server) serveSDK(service *simulator.Service, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		http.Error(w, "the request is too long", http.StatusRequestEntityTooLarge)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	f := s.onWire(body)
	if f == nil {
		s.call(service, w, r)
		return
	}
	s.pause(f.Delay)
	switch {
	case f.Status != 0:
		http.Error(w, http.StatusText(f.Status), f.Status)
	case f.Lost:
		s.call(service, &deaf{header: http.Header{}}, r)
		fallthrough
	default:
		panic(http.ErrAbortHandler)
	}
}

// call leads a request to the simulator. A call that panics there keeps the simulator's lock of its object, and whoever needs that
// next waits for ever: so it is noted, and Close fails with it.
func (s *Server) call(service *simulator.Service, w http.ResponseWriter, r *http.Request) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		s.mu.Lock()
		if s.broken == nil {
			s.broken = fmt.Errorf("a call panicked: %v\n%s", p, debug.Stack())
		}
		s.mu.Unlock()
		panic(http.ErrAbortHandler)
	}()
	service.ServeSDK(w, r)
}

// onWire is the fault that a request meets before it is looked at. Where there are none nothing is decoded twice.
func (s *Server) onWire(body []byte) *Fault {
	s.mu.Lock()
	any := false
	for _, f := range s.faults {
		any = any || onWire(f)
	}
	s.mu.Unlock()
	if !any {
		return nil
	}
	m, err := simulator.UnmarshalBody(types.TypeFunc(), body)
	if err != nil {
		return nil
	}
	return s.meet(m.Name, m.This.Value, onWire)
}

// deaf takes an answer that nobody gets.
type deaf struct{ header http.Header }

func (d *deaf) Header() http.Header         { return d.header }
func (d *deaf) Write(p []byte) (int, error) { return len(p), nil }
func (d *deaf) WriteHeader(int)             {}

// withFault hands a fault to the task of a call.
func withFault(ctx *simulator.Context, f *Fault) {
	parent := ctx.Context
	if parent == nil {
		parent = context.Background()
	}
	ctx.Context = context.WithValue(parent, faultKey{}, f)
}
