package vmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	callTries   = 7                      // of one that failed on its way; the waits between add up to half a minute at most
	callWait    = 250 * time.Millisecond // before the second, and doubled before each further one
	callMaxWait = 10 * time.Second
	silences    = 2   // times that no answer came in time: a server that is stuck is not waited for seven times
	loginTries  = 2   // logins for one call: a session that is lost at once again is lost for a reason
	slowCall    = 10  // times CallTimeout, for calls that are known to take long
	waitSlack   = 2.0 // times CallTimeout, on top of what a wait for updates asked for
)

// calls bounds what one answer may hold, and tells a proxy's or a server's no from a vSphere answer.
type calls struct{ below http.RoundTripper }

func (c *calls) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := c.below.RoundTrip(req)
	if err != nil || req.URL.Path != vim25.Path {
		return res, err
	}
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusInternalServerError && res.StatusCode/100 != 3 {
		_, _ = io.CopyN(io.Discard, res.Body, 64<<10) // so that the connection can be used again
		res.Body.Close()
		return nil, &StatusError{Op: req.Method, File: req.URL.Path, Status: res.StatusCode}
	}
	res.Body = &boundedBody{ReadCloser: res.Body, left: maxAnswer}
	return res, nil
}

// boundedBody is an answer that ends in an error where it is longer than any answer has to be.
type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the answer is longer than %d bytes", int64(maxAnswer))
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// caller makes calls that outlive what happens to a session and to the way to its server.
type caller struct {
	c    *Client
	soap *soap.Client
}

func (r *caller) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	call := nameOf(req)
	opening := aboutSessions(call)
	logins, silent := 0, 0
	for try := 1; ; try++ {
		seen, err := r.c.login.state()
		if err != nil && !opening {
			return err
		}
		err = r.once(ctx, call, req, res)
		if !opening && seen > 0 && isLost(err, res) {
			if logins++; logins > loginTries {
				return err
			}
			if err := r.c.login.again(ctx, seen); err != nil {
				return fmt.Errorf("%s: %w", call, err)
			}
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			silent++
		}
		if err == nil || ctx.Err() != nil || try >= callTries || silent >= silences || !againWorth(call, err) {
			return err
		}
		if err := pause(ctx, try); err != nil {
			return err
		}
	}
}

// once makes a call with a deadline of its own.
func (r *caller) once(ctx context.Context, call string, req, res soap.HasFault) error {
	// What a try before left would be added to.
	if v := reflect.ValueOf(res); req != res && v.Kind() == reflect.Pointer && !v.IsNil() {
		v.Elem().SetZero()
	}
	limit := r.patience(call, req)
	timed, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := roundTrip(timed, r.soap, call, req, res)
	switch {
	case err == nil || soap.IsSoapFault(err):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("%s %s: %w", r.c.Address(), call, ctx.Err())
	case timed.Err() != nil:
		return fmt.Errorf("%s %s: no answer within %v: %w", r.c.Address(), call, limit, os.ErrDeadlineExceeded)
	}
	return fmt.Errorf("%s %s: %w", r.c.Address(), call, err)
}

// roundTrip turns what the library makes of an answer with a type in the wrong place, which is a panic of package reflect, into
// an error.
func roundTrip(ctx context.Context, to soap.RoundTripper, call string, req, res soap.HasFault) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &AnswerError{Object: "the answer to " + call, Why: fmt.Sprint(p)}
		}
	}()
	return to.RoundTrip(ctx, req, res)
}

// patience is how long the answer to a call may take.
func (r *caller) patience(call string, req soap.HasFault) time.Duration {
	usual := r.c.opts.CallTimeout
	switch call {
	case "QueryChangedDiskAreas":
		return slowCall * usual
	case "WaitForUpdatesEx":
		if body, ok := req.(*methods.WaitForUpdatesExBody); ok && body.Req != nil && body.Req.Options != nil && body.Req.Options.MaxWaitSeconds != nil {
			return min(r.c.opts.TaskTimeout, time.Duration(*body.Req.Options.MaxWaitSeconds)*time.Second+time.Duration(waitSlack*float64(usual)))
		}
		return r.c.opts.TaskTimeout
	}
	return usual
}

// nameOf is the call's name: every body is named after its method.
func nameOf(req soap.HasFault) string {
	t := reflect.TypeOf(req)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return strings.TrimSuffix(t.Name(), "Body")
}

// aboutSessions: the call is made without a session, or ends it.
func aboutSessions(call string) bool {
	return strings.HasPrefix(call, "Login") || call == "Logout" || call == "CloneSession" || call == "RetrieveServiceContent"
}

// isRead: the call changes nothing, so that it may arrive twice. Continuing a long answer is none: the server hands out
// each part once.
func isRead(call string) bool {
	for _, prefix := range []string{"Retrieve", "Query", "Find", "Fetch", "Has", "List", "CheckForUpdates", "WaitForUpdates", "Login"} {
		if strings.HasPrefix(call, prefix) {
			return !strings.HasSuffix(call, "_Task")
		}
	}
	return call == "CurrentTime" || call == "SessionIsActive" || call == "HttpNfcLeaseProgress"
}

// isLost: the server does not know the session. To a question about properties it may answer that for each of them.
func isLost(err error, res soap.HasFault) bool {
	if err != nil {
		return isFault[*types.NotAuthenticated](err)
	}
	var objects []types.ObjectContent
	switch body := res.(type) {
	case *methods.RetrievePropertiesBody:
		if body.Res != nil {
			objects = body.Res.Returnval
		}
	case *methods.RetrievePropertiesExBody:
		if body.Res != nil && body.Res.Returnval != nil {
			objects = body.Res.Returnval.Objects
		}
	}
	for _, o := range objects {
		for _, missing := range o.MissingSet {
			if _, lost := missing.Fault.Fault.(*types.NotAuthenticated); lost {
				return true
			}
		}
	}
	return false
}

// againWorth: the call failed on its way, where another try may get through, and doing it twice is no harm or impossible.
func againWorth(call string, err error) bool {
	return neverArrived(err) || isRead(call) && isAway(err)
}

// neverArrived: there was not even a connection.
func neverArrived(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" && !isWrongName(err)
}

// isWrongName: there is no server of that name, and there will be none in a while.
func isWrongName(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}

// isAway: the server cannot be reached, does not answer, or says that it is not ready.
func isAway(err error) bool {
	var status *StatusError
	if errors.As(err, &status) {
		switch status.Status {
		case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusTooManyRequests:
			return true
		}
		return false
	}
	var op *net.OpError
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.As(err, &op) && op.Op != "remote error" && !isWrongName(err) || strings.Contains(err.Error(), "server closed idle connection")
}

// pause waits before another try, longer each time, and never as long as others that began together.
func pause(ctx context.Context, try int) error {
	wait := min(callMaxWait, callWait<<min(try-1, 10))
	wait = wait/2 + rand.N(wait/2+1)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
