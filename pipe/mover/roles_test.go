package mover

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// everyCall is one message of each kind that a caller may send, and of each that it may not.
var everyCall = []wire.Message{
	&wire.Points{}, &wire.OpenDisk{}, &wire.ReadImage{}, &wire.ImageExtents{}, &wire.CloseImage{}, &wire.ReadBlob{},
	&wire.Begin{}, &wire.StartDisk{}, &wire.Query{}, &wire.Put{}, &wire.Mark{Extent: pipe.Extent{Kind: pipe.Zero}}, &wire.Write{},
	&wire.SealDisk{}, &wire.DropDisk{}, &wire.StartBlob{}, &wire.BlobPart{}, &wire.SealBlob{}, &wire.Commit{}, &wire.DropPoint{},
	&wire.Usage{}, &wire.Images{}, &wire.OpenSource{}, &wire.Collect{}, &wire.StoreOpen{}, &wire.StorePart{}, &wire.StoreSeal{},
	&wire.StoreDrop{}, &wire.StoreRead{Name: "log/1"}, &wire.StoreStat{}, &wire.StoreList{}, &wire.StoreRemove{}, &wire.StoreProbe{},
	&wire.Enrol{}, &wire.Rotate{}, &wire.Health{},
}

// never are messages that are no calls: answers, and what lanes say to each other.
var never = []wire.Message{
	&wire.Hello{}, &wire.Welcome{}, &wire.Refuse{}, &wire.Ping{}, &wire.Pong{}, &wire.Ack{}, &wire.Durable{}, &wire.Credit{},
	&wire.Drain{}, &wire.OK{}, &wire.Fail{}, &wire.PointList{}, &wire.ImageOpened{}, &wire.Content{}, &wire.ExtentList{},
	&wire.BlobContent{}, &wire.Begun{}, &wire.DiskStarted{}, &wire.Known{}, &wire.Placed{}, &wire.BlobStarted{}, &wire.Committed{},
	&wire.UsageIs{}, &wire.ImageList{}, &wire.Collected{}, &wire.StoreOpened{}, &wire.StoreSize{}, &wire.StoreNames{}, &wire.StoreIs{},
	&wire.Enrolled{}, &wire.HealthIs{},
}

// Each verb by each kind of peer on each kind of mover, against lists that are written by hand: what is not on the list
// is refused, and nothing of it is done.
func TestRights(t *testing.T) {
	t.Parallel()
	onlyToken := []wire.Kind{wire.KindEnrol}
	everybody := []wire.Kind{wire.KindRotate, wire.KindHealth}
	appends := slices.Concat(everybody, []wire.Kind{
		wire.KindPoints, wire.KindOpenDisk, wire.KindImageExtents, wire.KindCloseImage,
		wire.KindBegin, wire.KindStartDisk, wire.KindQuery, wire.KindPut, wire.KindMark, wire.KindWrite, wire.KindSealDisk,
		wire.KindDropDisk, wire.KindStartBlob, wire.KindBlobPart, wire.KindSealBlob, wire.KindCommit, wire.KindDropPoint, wire.KindUsage,
	})
	full := slices.Concat(appends, []wire.Kind{wire.KindReadImage, wire.KindReadBlob})
	blind := slices.Concat(everybody, []wire.Kind{
		wire.KindStoreOpen, wire.KindStorePart, wire.KindStoreSeal, wire.KindStoreDrop, wire.KindStoreRead, wire.KindStoreStat,
		wire.KindStoreList, wire.KindStoreRemove, wire.KindStoreProbe,
	})
	source := slices.Concat(everybody, []wire.Kind{
		wire.KindImages, wire.KindOpenSource, wire.KindCollect, wire.KindReadImage, wire.KindImageExtents, wire.KindCloseImage,
	})
	sourceAppends := slices.Concat(everybody, []wire.Kind{wire.KindImageExtents, wire.KindCloseImage})

	token := trust.Peer{Name: "x", Role: trust.Full, Token: true}
	appender, whole := trust.Peer{Name: "x", Role: trust.Append}, trust.Peer{Name: "x", Role: trust.Full}
	strange, guest := trust.Peer{Name: "x", Role: "admin"}, trust.Peer{Name: "x", Role: trust.Guest}
	trusted := ServerOptions{Backend: newRepo(t)}
	onlyBlind, onlySource := ServerOptions{Blind: &blindShelf{store: newShelf(t)}}, ServerOptions{Source: &shelfSource{}}
	for name, c := range map[string]struct {
		of   ServerOptions
		peer trust.Peer
		may  []wire.Kind
	}{
		"trusted, token":   {trusted, token, onlyToken},
		"trusted, append":  {trusted, appender, appends},
		"trusted, full":    {trusted, whole, full},
		"trusted, strange": {trusted, strange, nil},
		"trusted, guest":   {trusted, guest, everybody},
		"blind, guest":     {onlyBlind, guest, everybody},
		"source, guest":    {onlySource, guest, everybody},
		"blind, token":     {onlyBlind, token, onlyToken},
		"blind, append":    {onlyBlind, appender, slices.DeleteFunc(slices.Clone(blind), func(k wire.Kind) bool { return k == wire.KindStoreRemove })}, // the guard's word
		"blind, full":      {onlyBlind, whole, blind},
		"source, token":    {onlySource, token, onlyToken},
		"source, append":   {onlySource, appender, sourceAppends},
		"source, full":     {onlySource, whole, source},
	} {
		t.Run(name, func(t *testing.T) {
			o := c.of
			o.StateDir = t.TempDir()
			hs, err := newHost(&o, uncared{})
			require.NoError(t, err)
			defer hs.close()
			h, err := newHandler(t.Context(), hs, c.peer, func(wire.Message) {})
			require.NoError(t, err)
			defer h.Close()
			for i, m := range everyCall {
				_, err := h.Handle(t.Context(), uint64(i+1), m)
				refused := false
				if err != nil {
					code := toFail(err).Code
					refused = code == wire.CodeForbidden || code == wire.CodeUnsupported && m.Kind() != wire.KindEnrol && m.Kind() != wire.KindRotate
				}
				require.Equal(t, !slices.Contains(c.may, m.Kind()), refused, "%v: %v", m.Kind(), err)
			}
			for _, m := range never {
				_, err := h.Handle(t.Context(), 1000, m)
				require.Equal(t, wire.CodeInvalid, toFail(err).Code, "%v", m.Kind())
			}
		})
	}
}

// The table names every kind that there is: a new message is not forgotten.
func TestRightsAreComplete(t *testing.T) {
	t.Parallel()
	seen := map[wire.Kind]bool{}
	for _, m := range slices.Concat(everyCall, never) {
		seen[m.Kind()] = true
	}
	for k := range 256 {
		kind := wire.Kind(k)
		if _, err := wire.Decode(kind, nil); err == nil || kind.String()[:min(5, len(kind.String()))] != "kind " {
			require.True(t, seen[kind], "%v is in no list", kind)
		}
	}
	require.Len(t, everyCall, len(rights))
	for _, m := range everyCall {
		require.Contains(t, rights, m.Kind())
	}
}
