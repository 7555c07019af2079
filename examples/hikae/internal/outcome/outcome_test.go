package outcome

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/diskvm"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/qcow2"
	"github.com/hikae/hikae/repo"
)

// TestTable is the table of errors and exit statuses (hazard H50), read from the other side.
func TestTable(t *testing.T) {
	for _, c := range []struct {
		err    error
		kind   Kind
		status Status
		object string
	}{
		{errors.New("x"), KindFailed, 1, ""},
		{Usage("h", "u"), KindUsage, 2, ""},
		{&diskvm.UsageError{What: "disk", Why: "why"}, KindUsage, 2, ""},
		{&repo.ErrCorrupt{Object: "data/1"}, KindCorrupt, 4, "data/1"},
		{repo.ErrSecret, KindSecret, 1, ""},
		{repo.ErrNotRepository, KindNotFound, 1, ""},
		{repo.ErrExists, KindExists, 1, ""},
		{repo.ErrAmbiguous, KindAmbiguous, 1, ""},
		{trust.ErrNameTaken, KindExists, 1, ""},
		{syscall.EADDRINUSE, KindBusy, 1, ""},
		{&mover.Error{Code: wire.CodeForbidden, Text: "ReadImage is not for this peer's role"}, KindPermission, 1, ""},
		{&mover.Error{Code: wire.CodeForbidden, Text: "this peer was revoked"}, KindPermission, 1, ""},
		{&wire.Refuse{Code: wire.CodeForbidden, Text: "this peer was revoked"}, KindPermission, 1, ""},
		{job.ErrAmbiguous, KindAmbiguous, 1, ""},
		{repo.ErrForgotten, KindForgotten, 1, ""},
		{repo.ErrReadOnly, KindReadOnly, 1, ""},
		{repo.ErrRevoked, KindBusy, 1, ""},
		{&repo.ErrRollback{}, KindRollback, 1, ""},
		{&repo.ErrUnsupported{}, KindUnsupported, 1, ""},
		{&hikae.BusyError{}, KindBusy, 1, ""},
		{&diskvm.LiveError{Path: "a.raw"}, KindLocked, 1, "a.raw"},
		{&diskfile.LockedError{Path: "a.raw"}, KindLocked, 1, "a.raw"},
		{&diskfile.ChangedError{Path: "a.raw"}, KindChanged, 1, "a.raw"},
		{&diskfile.FormatError{Path: "a.vdi"}, KindUnsupported, 1, "a.vdi"},
		{&diskfile.Error{Path: "a.raw", Off: -1, Err: diskfile.ErrNotDisk}, KindImage, 1, "a.raw"},
		{&diskfile.Error{Path: "a.raw", Off: 5, Err: diskfile.ErrNoSpace}, KindNoSpace, 1, "a.raw"},
		{&qcow2.CorruptError{Path: "a.qcow2"}, KindImage, 1, "a.qcow2"},
		{&qcow2.UnsupportedError{}, KindUnsupported, 1, ""},
		{&fs.PathError{Path: "p", Err: fs.ErrNotExist}, KindNotFound, 1, "p"},
		{&fs.PathError{Path: "p", Err: fs.ErrExist}, KindExists, 1, "p"},
		{&fs.PathError{Path: "p", Err: fs.ErrPermission}, KindPermission, 1, "p"},
		{&Error{Kind: KindInterrupted, Err: &repo.ErrCorrupt{Object: "o"}}, KindInterrupted, 130, "o"},
		{&Error{Place: "r", Err: errors.New("x")}, KindFailed, 1, "r"},
		{&Error{Place: "r", Err: &repo.ErrCorrupt{Object: "o"}}, KindCorrupt, 4, "o"},
	} {
		for _, err := range []error{c.err, fmt.Errorf("wrapped: %w", c.err), errors.Join(errors.New("another"), c.err)} {
			p := Of(err)
			assert.Equal(t, c.kind, p.Kind, "%v", err)
			assert.Equal(t, c.status, p.Status(), "%v", err)
			assert.Equal(t, c.object, p.Object, "%v", err)
		}
	}
}

// What a mover says for whoever wrote it is said again for people, with what the command added (R020).
func TestMoverWords(t *testing.T) {
	for _, c := range []struct {
		err           error
		message, hint string
	}{
		{trust.ErrWrongServer, "another key", "HIKAE_STATE_DIR"},
		{fmt.Errorf("%w: no end of causes", trust.ErrRefused), "refused this machine's key", "the mover's log says which"},
		{fmt.Errorf("waiting: %w", syscall.ECONNREFUSED), "connection refused", "Is a mover running there"},
		{errors.Join(trust.ErrWrongServer, syscall.ECONNREFUSED), "another key", "HIKAE_STATE_DIR"},
		{&mover.Error{Code: wire.CodeForbidden, Text: "ReadImage is not for this peer's role"}, "the role append", "--role full"},
		{&mover.Error{Code: wire.CodeForbidden, Text: "this peer is not known here any more"}, "revoked there", "new token"},
	} {
		p := Of(&Error{Text: "mover at b:7420", Err: c.err})
		assert.Contains(t, p.Message, "mover at b:7420: ")
		assert.Contains(t, p.Message, c.message)
		assert.Contains(t, p.Hint, c.hint)
		assert.NotContains(t, p.Message, "no end of causes")
	}
}

func TestRange(t *testing.T) {
	p := Of(&pipe.RangeError{Op: "read", Off: 4096, Len: 512, Err: errors.New("input/output error")})
	require.NotNil(t, p.Offset)
	require.NotNil(t, p.Length)
	assert.EqualValues(t, 4096, *p.Offset)
	assert.EqualValues(t, 512, *p.Length)
	p = Of(fmt.Errorf("disk0: %w", &repo.ErrCorrupt{Object: "data/7", Offset: 8, Length: 9, Reason: "tag"}))
	assert.EqualValues(t, 8, *p.Offset)
	assert.Contains(t, p.Text("error:"), "where: data/7, bytes 8 to 17\n")
	assert.Contains(t, p.Text("error:"), "next:  ")
}

// TestDocument holds the names of the fields, and that all of them are always there.
func TestDocument(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, WriteJSON(&b, Document{Of(errors.New("<x> & \x1b[2Jy\u202e"))}))
	var doc map[string]map[string]any
	require.NoError(t, json.Unmarshal(b.Bytes(), &doc))
	for _, name := range []string{"kind", "message", "object", "offset", "length", "hint"} {
		assert.Contains(t, doc["error"], name)
	}
	assert.Len(t, doc["error"], 6)
	assert.Equal(t, "<x> & \ufffd[2Jy\ufffd", doc["error"]["message"], "what would steer a terminal is replaced")
}

// A password that somebody wrote into a place stands in no message, object or hint.
func TestPlacesAreRedacted(t *testing.T) {
	for in, want := range map[string]string{
		"smb://u:p@nas/x": "smb://…@nas/x", "mover://u:p/q r@h/n": "mover://…@h/n", "[smb://u:p@nas/x]:7420": "[smb://…@nas/x]:7420",
		"mover://h/n": "mover://h/n", "/srv/a@b": "/srv/a@b", "web1@latest": "web1@latest",
	} {
		require.Equal(t, want, Redact(in))
	}
	p := Of(&Error{Text: "open smb://u:p@nas/x", Object: "smb://u:p@nas/x", Hint: "Try smb://u:p@nas/x again, or web1@latest.", Err: errors.New(`parse "mover://a:b@c/d"`)})
	require.Equal(t, `open smb://…@nas/x: parse "mover://…@c/d"`, p.Message)
	require.Equal(t, "smb://…@nas/x", p.Object)
	require.Equal(t, "Try smb://…@nas/x again, or web1@latest.", p.Hint)
}
