package mover

import (
	"fmt"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// callers are kinds of peers, as a set.
type callers uint8

const (
	byToken  callers = 1 << iota // a one-time token: may enrol
	byAppend                     // may add points of its own VMs
	byFull                       // may do everything
	byGuest                      // may have work done in guests, which is another protocol

	byAny = byAppend | byFull
)

// service says what of a mover a call needs.
type service uint8

const (
	ofMover   service = iota // every mover does it
	ofBackend                // a trusted target
	ofBlind                  // a blind target
	ofSource                 // a source service
	ofImage                  // an image of a backend or of a source
)

// right is who may make a call, and what answers it.
type right struct {
	who callers
	of  service
}

// rights is the whole of what may be asked. A kind that is not here is no call.
var rights = map[wire.Kind]right{
	wire.KindEnrol:  {byToken, ofMover},
	wire.KindRotate: {byAny | byGuest, ofMover},
	wire.KindHealth: {byAny | byGuest, ofMover},

	// An append peer sees its own points' descriptions and where they hold data, which increments are built from, and
	// no byte of what they hold.
	wire.KindPoints:       {byAny, ofBackend},
	wire.KindOpenDisk:     {byAny, ofBackend},
	wire.KindImageExtents: {byAny, ofImage},
	wire.KindCloseImage:   {byAny, ofImage},
	wire.KindReadImage:    {byFull, ofImage},
	wire.KindReadBlob:     {byFull, ofBackend},

	wire.KindBegin:     {byAny, ofBackend},
	wire.KindStartDisk: {byAny, ofBackend},
	wire.KindQuery:     {byAny, ofBackend},
	wire.KindPut:       {byAny, ofBackend},
	wire.KindMark:      {byAny, ofBackend},
	wire.KindWrite:     {byAny, ofBackend},
	wire.KindSealDisk:  {byAny, ofBackend},
	wire.KindDropDisk:  {byAny, ofBackend},
	wire.KindStartBlob: {byAny, ofBackend},
	wire.KindBlobPart:  {byAny, ofBackend},
	wire.KindSealBlob:  {byAny, ofBackend},
	wire.KindCommit:    {byAny, ofBackend},
	wire.KindDropPoint: {byAny, ofBackend},
	wire.KindUsage:     {byAny, ofBackend},

	wire.KindImages:     {byFull, ofSource},
	wire.KindOpenSource: {byFull, ofSource},
	wire.KindCollect:    {byFull, ofSource},

	// What of these a peer may do is the guard's to say, which knows what the names mean.
	wire.KindStoreOpen:   {byAny, ofBlind},
	wire.KindStorePart:   {byAny, ofBlind},
	wire.KindStoreSeal:   {byAny, ofBlind},
	wire.KindStoreDrop:   {byAny, ofBlind},
	wire.KindStoreRead:   {byAny, ofBlind},
	wire.KindStoreStat:   {byAny, ofBlind},
	wire.KindStoreList:   {byAny, ofBlind},
	wire.KindStoreRemove: {byAny, ofBlind},
	wire.KindStoreProbe:  {byAny, ofBlind},
}

// allowed says whether a caller may make a call of this kind here.
func (h *handler) allowed(kind wire.Kind) *wire.Fail {
	r, ok := rights[kind]
	switch {
	case !ok:
		return &wire.Fail{Code: wire.CodeInvalid, Text: fmt.Sprintf("%v is no call", kind)}
	case r.who&h.who == 0:
		return &wire.Fail{Code: wire.CodeForbidden, Text: fmt.Sprintf("%v is not for this peer's role", kind)}
	case !h.serves(r.of):
		return &wire.Fail{Code: wire.CodeUnsupported, Text: fmt.Sprintf("this mover is not one that does %v", kind)}
	}
	return nil
}

func (h *handler) serves(of service) bool {
	switch of {
	case ofBackend:
		return h.host.backend != nil
	case ofBlind:
		return h.host.blind != nil
	case ofSource:
		return h.host.source != nil
	case ofImage:
		return h.host.backend != nil || h.host.source != nil
	}
	return true
}
