package fsrvp

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/oiweiwei/go-msrpc/dcerpc"
	"github.com/oiweiwei/go-msrpc/msrpc/dtyp"
	agent "github.com/oiweiwei/go-msrpc/msrpc/fsrvp/fileservervssagent/v1"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/internal/smbwire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// journal remembers effects, and which of them were done.
type journal struct {
	effects []hikae.Effect
	done    int
	fail    error
}

func (j *journal) Intend(_ context.Context, e hikae.Effect) (func(context.Context) error, error) {
	if j.fail != nil {
		return nil, j.fail
	}
	j.effects = append(j.effects, e)
	return func(context.Context) error { j.done++; return nil }, nil
}

// refusing is an agent that makes a set as far as its commit, and answers with codes from there on. Not a server's: for what one does
// that Samba cannot be brought to do.
type refusing struct {
	agent.FileServerVSSAgentClient
	remove, abort Code
	context       *bool // it is set
}

func (a refusing) GetSupportedVersion(context.Context, *agent.GetSupportedVersionRequest, ...dcerpc.CallOption) (*agent.GetSupportedVersionResponse, error) {
	return &agent.GetSupportedVersionResponse{MinVersion: 1, MaxVersion: 1}, nil
}

func (a refusing) SetContext(context.Context, *agent.SetContextRequest, ...dcerpc.CallOption) (*agent.SetContextResponse, error) {
	*a.context = true
	return &agent.SetContextResponse{}, nil
}

func (a refusing) StartShadowCopySet(context.Context, *agent.StartShadowCopySetRequest, ...dcerpc.CallOption) (*agent.StartShadowCopySetResponse, error) {
	if !*a.context {
		return &agent.StartShadowCopySetResponse{Return: uint32(badState)}, nil
	}
	return &agent.StartShadowCopySetResponse{ShadowCopySetID: &dtyp.GUID{Data1: 1, Data4: make([]byte, 8)}}, nil
}

func (a refusing) AddToShadowCopySet(context.Context, *agent.AddToShadowCopySetRequest, ...dcerpc.CallOption) (*agent.AddToShadowCopySetResponse, error) {
	return &agent.AddToShadowCopySetResponse{ShadowCopyID: &dtyp.GUID{Data1: 2, Data4: make([]byte, 8)}}, nil
}

func (a refusing) PrepareShadowCopySet(context.Context, *agent.PrepareShadowCopySetRequest, ...dcerpc.CallOption) (*agent.PrepareShadowCopySetResponse, error) {
	return &agent.PrepareShadowCopySetResponse{Return: uint32(timedOut)}, nil
}

func (a refusing) ExposeShadowCopySet(context.Context, *agent.ExposeShadowCopySetRequest, ...dcerpc.CallOption) (*agent.ExposeShadowCopySetResponse, error) {
	return &agent.ExposeShadowCopySetResponse{Return: uint32(badState)}, nil
}

func (a refusing) DeleteShareMapping(context.Context, *agent.DeleteShareMappingRequest, ...dcerpc.CallOption) (*agent.DeleteShareMappingResponse, error) {
	return &agent.DeleteShareMappingResponse{Return: uint32(a.remove)}, nil
}

func (a refusing) AbortShadowCopySet(context.Context, *agent.AbortShadowCopySetRequest, ...dcerpc.CallOption) (*agent.AbortShadowCopySetResponse, error) {
	return &agent.AbortShadowCopySetResponse{Return: uint32(a.abort)}, nil
}

func refusingConn(t *testing.T, a refusing) *Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	a.context = new(bool)
	c := &Conn{server: "fs1", opts: (&Options{}).withDefaults(), line: smbwire.NewLine(ours, time.Minute), agent: a}
	t.Cleanup(func() {
		c.line.Kill()
		theirs.Close()
	})
	return c
}

// R099: a copy is gone when the server deleted it, does not know it, or gave up the set that was not exposed. Whatever else it says, the copy
// and the share that shows it may be there.
func TestWhatGoneMeans(t *testing.T) {
	const fails, noMemory, inUse Code = 0x80004005, 0x8007000E, 0x80070020
	set := Set{ID: "00000001-0000-4000-8000-000000000001", Copies: []Copy{{ID: "00000002-0000-4000-8000-000000000001", Share: `\\fs1\vms`}}}
	for _, c := range []struct {
		remove, abort Code
		gone          bool
	}{
		{0, fails, true}, {notFound, notFound, true}, {notFound, badState, true}, {badArgument, badArgument, true}, {badState, 0, true}, {badState, notFound, true},
		{badState, badState, false}, {badState, otherSet, false}, {badState, fails, false}, {notFound, fails, false},
		{fails, 0, false}, {noMemory, 0, false}, {inUse, 0, false}, {timedOut, 0, false}, {waitTimedOut, 0, false}, {waitFailed, 0, false}, {accessDenied, 0, false},
	} {
		err := refusingConn(t, refusing{remove: c.remove, abort: c.abort}).Delete(t.Context(), set)
		require.Equal(t, c.gone, err == nil, "delete: %v, abort: %v: %v", c.remove, c.abort, err)
	}
}

// What could not be taken back is said, and its effect stays in the journal; what was taken back is forgotten.
func TestLeft(t *testing.T) {
	for abort, left := range map[Code]bool{0: false, notFound: false, badState: true, accessDenied: true} {
		c := refusingConn(t, refusing{abort: abort})
		j, pin := &journal{}, &pinned{}
		err := pin.made(t.Context(), c, "fs1", "fs1", "mark", []string{`\\fs1\vms`}, j)
		require.ErrorContains(t, err, "PrepareShadowCopySet")
		var e *LeftError
		require.Equal(t, left, errors.As(err, &e), "%v", err)
		require.Len(t, j.effects, 2)
		require.Equal(t, left, j.done == 1, "that it was begun is written down once more, with its copies")
	}
}
