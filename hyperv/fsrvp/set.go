package fsrvp

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
	"unicode"

	"github.com/oiweiwei/go-msrpc/msrpc/dtyp"
	agent "github.com/oiweiwei/go-msrpc/msrpc/fsrvp/fileservervssagent/v1"
)

// contextBackup is a shadow copy without writers, that no restart of the server outlives: FSRVP_CTX_FILE_SHARE_BACKUP.
const contextBackup = 0x10

// Set is a shadow copy set as the server knows it.
type Set struct {
	ID     string // a GUID in small letters
	Copies []Copy
}

// Copy is the shadow copy of one share.
type Copy struct {
	ID      string // a GUID in small letters
	Share   string // \\fs1\vms
	Exposed string // the share that shows it, \\fs1\vms@{…}; empty before it is exposed
}

// call makes one call of the protocol. code is what it returned.
func (c *Conn) call(ctx context.Context, op, share string, limit time.Duration, do func(ctx context.Context) (code uint32, err error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v: %w", limit, context.DeadlineExceeded))
	defer cancel()
	var code uint32
	_, err := c.line.Run(ctx, func() (err error) {
		code, err = do(ctx)
		return err
	})
	if code != 0 {
		return &Error{op, c.server, share, Code(code)}
	}
	if err != nil {
		return fmt.Errorf("%s on %s: %w", op, c.server, err)
	}
	return nil
}

// returned takes the code of an answer, which the library answers beside an error about it.
func returned[T any](out *T, err error, code func(*T) uint32) (uint32, error) {
	if out == nil {
		if err == nil {
			err = ErrMalformed
		}
		return 0, err
	}
	return code(out), err
}

// Supported says which machine makes shadow copies of a share: in a cluster of file servers it may be another. A share of which
// none can be made is errors.ErrUnsupported.
func (c *Conn) Supported(ctx context.Context, share string) (owner string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var yes bool
	err = c.call(ctx, "IsPathSupported", share, c.opts.CallTimeout, func(ctx context.Context) (uint32, error) {
		out, err := c.agent.IsPathSupported(ctx, &agent.IsPathSupportedRequest{ShareName: share})
		return returned(out, err, func(o *agent.IsPathSupportedResponse) uint32 {
			yes, owner = o.SupportedByThisProvider, clean(o.OwnerMachineName)
			return o.Return
		})
	})
	if err == nil && !yes {
		err = &Error{"IsPathSupported", c.server, share, notSupported}
	}
	return owner, err
}

// Take makes a set of shares of this server, all of one moment, and exposes it. begun is told the set when it is begun, and again when
// its copies have ids, before they are made: an error of its stops the set. On error nothing is left.
func (c *Conn) Take(ctx context.Context, shares []string, begun func(Set) error) (set Set, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.version(ctx); err != nil {
		return set, err
	}
	id, err := c.start(ctx)
	if err != nil {
		return set, err
	}
	if id == nil {
		return set, fmt.Errorf("StartShadowCopySet on %s: %w: no id", c.server, ErrMalformed)
	}
	set.ID = textOf(id)
	made := false
	defer func() {
		if err != nil {
			host, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.opts.CallTimeout)
			defer cancel()
			if left := c.abandon(host, id, set, made); left != nil {
				err = &LeftError{set, err, left}
			}
		}
	}()
	if begun == nil {
		begun = func(Set) error { return nil }
	}
	if err := begun(set); err != nil {
		return set, err
	}
	for _, share := range shares {
		one, err := c.add(ctx, id, share)
		if err != nil {
			return set, err
		}
		set.Copies = append(set.Copies, one)
	}
	if err := begun(set); err != nil {
		return set, err
	}
	if err := c.commit(ctx, id, &made); err != nil {
		return set, err
	}
	for i := range set.Copies {
		if set.Copies[i].Exposed, err = c.mapping(ctx, id, set.Copies[i]); err != nil {
			return set, err
		}
	}
	return set, c.call(ctx, "RecoveryCompleteShadowCopySet", "", c.opts.CallTimeout, func(ctx context.Context) (uint32, error) {
		out, err := c.agent.RecoveryCompleteShadowCopySet(ctx, &agent.RecoveryCompleteShadowCopySetRequest{ShadowCopySetID: id})
		return returned(out, err, func(o *agent.RecoveryCompleteShadowCopySetResponse) uint32 { return o.Return })
	})
}

// start begins a set. A server makes one at a time: that of another backup ends soon, and one whose session died when the server
// gives it up. So the set is asked for first, and the context set when the server misses it: to one on which a dead session's set is
// begun, a context may count as a sign of life: a Samba that was told one each second did not give that set up for minutes.
func (c *Conn) start(ctx context.Context) (id *dtyp.GUID, err error) {
	ours := false // the context that is set
	for tries, since := 0, time.Now(); ; tries++ {
		id, err = c.begin(ctx)
		code := codeOf(err)
		switch over := tries > 0 && time.Since(since) > c.opts.TurnTimeout; {
		case err == nil && (ours || id == nil):
			return id, nil
		case err != nil && (over || code != badState && code != setInProgress):
			return nil, err
		case err == nil: // in a context of somebody else's, which goes with it
			if err := gone(c.abort(ctx, id)); err != nil {
				return nil, &LeftError{Set{ID: textOf(id)}, errContext, err}
			}
		}
		if ours = code != setInProgress; ours {
			if err := c.setContext(ctx); err != nil && codeOf(err) != setInProgress {
				return nil, err
			}
			if tries == 0 {
				continue
			}
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, context.Cause(ctx))
		case <-time.After(min(time.Second, c.opts.TurnTimeout)):
		}
	}
}

var errContext = errors.New("the set was begun in the context of another backup")

func (c *Conn) begin(ctx context.Context) (id *dtyp.GUID, err error) {
	err = c.call(ctx, "StartShadowCopySet", "", c.opts.CallTimeout, func(ctx context.Context) (uint32, error) {
		out, err := c.agent.StartShadowCopySet(ctx, &agent.StartShadowCopySetRequest{ClientShadowCopySetID: newGUID()})
		return returned(out, err, func(o *agent.StartShadowCopySetResponse) uint32 { id = o.ShadowCopySetID; return o.Return })
	})
	return id, err
}

func (c *Conn) setContext(ctx context.Context) error {
	return c.call(ctx, "SetContext", "", c.opts.CallTimeout, func(ctx context.Context) (uint32, error) {
		out, err := c.agent.SetContext(ctx, &agent.SetContextRequest{Context: contextBackup})
		return returned(out, err, func(o *agent.SetContextResponse) uint32 { return o.Return })
	})
}

// version: there is one so far, 1.
func (c *Conn) version(ctx context.Context) error {
	var low, high uint32
	if err := c.call(ctx, "GetSupportedVersion", "", c.opts.CallTimeout, func(ctx context.Context) (uint32, error) {
		out, err := c.agent.GetSupportedVersion(ctx, &agent.GetSupportedVersionRequest{})
		return returned(out, err, func(o *agent.GetSupportedVersionResponse) uint32 {
			low, high = o.MinVersion, o.MaxVersion
			return o.Return
		})
	}); err != nil {
		return err
	}
	if low > 1 || high < 1 {
		return fmt.Errorf("%s speaks versions %d to %d of the protocol, and not 1: %w", c.server, low, high, errors.ErrUnsupported)
	}
	return nil
}

func (c *Conn) add(ctx context.Context, set *dtyp.GUID, share string) (one Copy, err error) {
	var id *dtyp.GUID
	if err := c.call(ctx, "AddToShadowCopySet", share, c.opts.CallTimeout, func(ctx context.Context) (uint32, error) {
		out, err := c.agent.AddToShadowCopySet(ctx, &agent.AddToShadowCopySetRequest{ClientShadowCopyID: newGUID(), ShadowCopySetID: set, ShareName: share})
		return returned(out, err, func(o *agent.AddToShadowCopySetResponse) uint32 { id = o.ShadowCopyID; return o.Return })
	}); err != nil {
		return one, err
	}
	if id == nil {
		return one, fmt.Errorf("AddToShadowCopySet on %s: %w: no id", c.server, ErrMalformed)
	}
	return Copy{ID: textOf(id), Share: share}, nil
}

// commit makes the set and exposes it.
func (c *Conn) commit(ctx context.Context, id *dtyp.GUID, made *bool) error {
	limit, millis := c.opts.CommitTimeout, uint32(c.opts.CommitTimeout.Milliseconds())
	if err := c.call(ctx, "PrepareShadowCopySet", "", limit, func(ctx context.Context) (uint32, error) {
		out, err := c.agent.PrepareShadowCopySet(ctx, &agent.PrepareShadowCopySetRequest{ShadowCopySetID: id, TimeoutInMilliseconds: millis})
		return returned(out, err, func(o *agent.PrepareShadowCopySetResponse) uint32 { return o.Return })
	}); err != nil {
		return err
	}
	*made = true // also where its answer is lost
	if err := c.call(ctx, "CommitShadowCopySet", "", limit, func(ctx context.Context) (uint32, error) {
		out, err := c.agent.CommitShadowCopySet(ctx, &agent.CommitShadowCopySetRequest{ShadowCopySetID: id, TimeoutInMilliseconds: millis})
		return returned(out, err, func(o *agent.CommitShadowCopySetResponse) uint32 { return o.Return })
	}); err != nil {
		return err
	}
	return c.expose(ctx, id)
}

func (c *Conn) expose(ctx context.Context, id *dtyp.GUID) error {
	limit, millis := c.opts.CommitTimeout, uint32(c.opts.CommitTimeout.Milliseconds())
	return c.call(ctx, "ExposeShadowCopySet", "", limit, func(ctx context.Context) (uint32, error) {
		out, err := c.agent.ExposeShadowCopySet(ctx, &agent.ExposeShadowCopySetRequest{ShadowCopySetID: id, TimeoutInMilliseconds: millis})
		return returned(out, err, func(o *agent.ExposeShadowCopySetResponse) uint32 { return o.Return })
	})
}

// mapping asks for the name of the share that shows a copy. Samba gives it without its server.
func (c *Conn) mapping(ctx context.Context, set *dtyp.GUID, one Copy) (exposed string, err error) {
	id, err := parseGUID(one.ID)
	if err != nil {
		return "", err
	}
	if err := c.call(ctx, "GetShareMapping", one.Share, c.opts.CallTimeout, func(ctx context.Context) (uint32, error) {
		out, err := c.agent.GetShareMapping(ctx, &agent.GetShareMappingRequest{ShadowCopyID: id, ShadowCopySetID: set, ShareName: one.Share, Level: 1})
		return returned(out, err, func(o *agent.GetShareMappingResponse) uint32 {
			if m, ok := o.ShareMapping.GetValue().(*agent.ShareMapping1); ok && m != nil {
				exposed = clean(m.ShadowCopyShareName)
			}
			return o.Return
		})
	}); err != nil {
		return "", err
	}
	server, _, ok := splitShare(one.Share)
	if !ok {
		return "", fmt.Errorf("%w: %s is no share", ErrMalformed, one.Share)
	}
	name := strings.TrimLeft(exposed, `\`)
	if strings.HasPrefix(exposed, `\\`) {
		if _, name, ok = splitShare(exposed); !ok {
			return "", fmt.Errorf("%w: the exposed share is called %.80q", ErrMalformed, exposed)
		}
	}
	if name == "" || strings.ContainsAny(name, `\/:*?"<>|`) || strings.ContainsFunc(name, unicode.IsControl) {
		return "", fmt.Errorf("%w: the exposed share is called %.80q", ErrMalformed, exposed)
	}
	return `\\` + server + `\` + name, nil
}

// abandon ends a set that is not whole. Before it is committed the server gives it up; afterwards its copies are deleted one by one.
func (c *Conn) abandon(ctx context.Context, id *dtyp.GUID, set Set, made bool) error {
	switch {
	case c.line.Dead():
		return fmt.Errorf("the connection to %s is lost: %w", c.server, net.ErrClosed)
	case made:
		return c.delete(ctx, set)
	}
	return gone(c.abort(ctx, id))
}

// gone lets a refusal pass that says that there is no such thing. Samba calls an id that it does not know an argument that it does not
// expect. Whatever else a server says, what was there may be there still.
func gone(err error) error {
	if c := codeOf(err); c == notFound || c == badArgument {
		return nil
	}
	return err
}

// codeOf is what a server refused a call with; 0 where it did not.
func codeOf(err error) Code {
	if refused, ok := errors.AsType[*Error](err); ok {
		return refused.Code
	}
	return 0
}

// abort gives a set up that is not exposed yet.
func (c *Conn) abort(ctx context.Context, id *dtyp.GUID) error {
	return c.call(ctx, "AbortShadowCopySet", "", c.opts.CallTimeout, func(ctx context.Context) (uint32, error) {
		out, err := c.agent.AbortShadowCopySet(ctx, &agent.AbortShadowCopySetRequest{ShadowCopySetID: id})
		return returned(out, err, func(o *agent.AbortShadowCopySetResponse) uint32 { return o.Return })
	})
}

// Delete ends the copies of a set, be it whole or not; one without copies that was begun is given up. Those that are gone are no error.
func (c *Conn) Delete(ctx context.Context, set Set) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.delete(ctx, set)
}

func (c *Conn) delete(ctx context.Context, set Set) error {
	id, err := parseGUID(set.ID)
	if err != nil {
		return err
	}
	if len(set.Copies) == 0 {
		return gone(c.abort(ctx, id))
	}
	var errs []error
	for _, one := range set.Copies {
		errs = append(errs, c.deleteCopy(ctx, id, one))
	}
	return errors.Join(errs...)
}

// deleteCopy ends one copy, and where the set never got so far that it has copies, the set. What is committed and not exposed cannot be
// deleted, so it is exposed first: given up by a call or by its server's clock, such a set is forgotten by Samba, and its copies stay.
func (c *Conn) deleteCopy(ctx context.Context, set *dtyp.GUID, one Copy) error {
	id, err := parseGUID(one.ID)
	if err != nil {
		return err
	}
	err = c.unmap(ctx, set, id, one.Share)
	switch codeOf(err) {
	case badState:
		if err := c.expose(ctx, set); codeOf(err) != 0 {
			return gone(c.abort(ctx, set)) // it is not committed either
		} else if err != nil {
			return err
		}
		return gone(c.unmap(ctx, set, id, one.Share))
	case notFound, badArgument:
		// The copy is not there; a set that was begun may be, and blocks others. That one cannot be given up which has other copies.
		if err = gone(c.abort(ctx, set)); codeOf(err) == badState {
			err = nil
		}
	}
	return err
}

// unmap deletes a copy and the share that shows it.
func (c *Conn) unmap(ctx context.Context, set, id *dtyp.GUID, share string) error {
	return c.call(ctx, "DeleteShareMapping", share, c.opts.CommitTimeout, func(ctx context.Context) (uint32, error) {
		out, err := c.agent.DeleteShareMapping(ctx, &agent.DeleteShareMappingRequest{ShadowCopySetID: set, ShadowCopyID: id, ShareName: share})
		return returned(out, err, func(o *agent.DeleteShareMappingResponse) uint32 { return o.Return })
	})
}

// clean is text of a server.
func clean(s string) string {
	s = strings.TrimRight(s, "\x00")
	return s[:min(len(s), 1024)]
}

// splitShare parts \\server\share.
func splitShare(share string) (server, name string, ok bool) {
	rest, ok := strings.CutPrefix(share, `\\`)
	server, name, found := strings.Cut(rest, `\`)
	return server, name, ok && found && server != "" && name != "" && !strings.Contains(name, `\`)
}

func newGUID() *dtyp.GUID {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[7], b[8] = b[7]&0x0f|0x40, b[8]&0x3f|0x80
	return &dtyp.GUID{Data1: binary.LittleEndian.Uint32(b[:]), Data2: binary.LittleEndian.Uint16(b[4:]), Data3: binary.LittleEndian.Uint16(b[6:]), Data4: b[8:]}
}

// textOf is a GUID in small letters, without braces.
func textOf(g *dtyp.GUID) string {
	d := make([]byte, 8)
	copy(d, g.Data4)
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", g.Data1, g.Data2, g.Data3, d[:2], d[2:])
}

func parseGUID(s string) (*dtyp.GUID, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 || len(s) != 36 {
		return nil, fmt.Errorf("%.60q is no GUID: %w", s, ErrMalformed)
	}
	return &dtyp.GUID{Data1: binary.BigEndian.Uint32(b), Data2: binary.BigEndian.Uint16(b[4:]), Data3: binary.BigEndian.Uint16(b[6:]), Data4: b[8:]}, nil
}
