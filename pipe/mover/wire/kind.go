package wire

import "fmt"

// Kind says what a message is. The numbers never change meaning.
type Kind uint8

// The kinds, by what they are for.
const (
	// On every lane, outside of calls.
	KindHello   Kind = 1
	KindWelcome Kind = 2
	KindRefuse  Kind = 3
	KindPing    Kind = 4
	KindPong    Kind = 5
	KindAck     Kind = 6
	KindDurable Kind = 7
	KindCredit  Kind = 8
	KindDrain   Kind = 9

	// Answers that fit any call.
	KindOK   Kind = 16
	KindFail Kind = 17

	// Reading points.
	KindPoints       Kind = 24
	KindPointList    Kind = 25
	KindOpenDisk     Kind = 26
	KindImageOpened  Kind = 27
	KindReadImage    Kind = 28
	KindContent      Kind = 29
	KindImageExtents Kind = 30
	KindExtentList   Kind = 31
	KindCloseImage   Kind = 32
	KindReadBlob     Kind = 33
	KindBlobContent  Kind = 34

	// Writing points.
	KindBegin       Kind = 40
	KindBegun       Kind = 41
	KindStartDisk   Kind = 42
	KindDiskStarted Kind = 43
	KindQuery       Kind = 44
	KindKnown       Kind = 45
	KindPut         Kind = 46
	KindPlaced      Kind = 47
	KindMark        Kind = 48
	KindWrite       Kind = 49
	KindSealDisk    Kind = 50
	KindDropDisk    Kind = 51
	KindStartBlob   Kind = 52
	KindBlobStarted Kind = 53
	KindBlobPart    Kind = 54
	KindSealBlob    Kind = 55
	KindCommit      Kind = 56
	KindCommitted   Kind = 57
	KindDropPoint   Kind = 58
	KindUsage       Kind = 59
	KindUsageIs     Kind = 60

	// The source service.
	KindImages     Kind = 72
	KindImageList  Kind = 73
	KindOpenSource Kind = 74
	KindCollect    Kind = 75
	KindCollected  Kind = 76

	// The store of a blind target.
	KindStoreOpen   Kind = 88
	KindStoreOpened Kind = 89
	KindStorePart   Kind = 90
	KindStoreSeal   Kind = 91
	KindStoreDrop   Kind = 92
	KindStoreRead   Kind = 93
	KindStoreStat   Kind = 94
	KindStoreSize   Kind = 95
	KindStoreList   Kind = 96
	KindStoreNames  Kind = 97
	KindStoreRemove Kind = 98
	KindStoreProbe  Kind = 99
	KindStoreIs     Kind = 100

	// Care.
	KindEnrol    Kind = 120
	KindEnrolled Kind = 121
	KindRotate   Kind = 122
	KindHealth   Kind = 123
	KindHealthIs Kind = 124
)

// String is the kind's name in PROTOCOL.md.
func (k Kind) String() string {
	if make, ok := makers[k]; ok {
		return fmt.Sprintf("%T", make())[len("*wire."):]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// InCall reports whether a message of this kind belongs to a call: its frame then has the call's number, and otherwise
// 0. A reader refuses a frame where that is not so.
func (k Kind) InCall() bool { return k >= KindOK }

// makers is the closed set of messages.
var makers = map[Kind]func() Message{}

func init() {
	for _, make := range []func() Message{
		func() Message { return new(Hello) }, func() Message { return new(Welcome) }, func() Message { return new(Refuse) },
		func() Message { return new(Ping) }, func() Message { return new(Pong) }, func() Message { return new(Ack) },
		func() Message { return new(Durable) }, func() Message { return new(Credit) }, func() Message { return new(Drain) },
		func() Message { return new(OK) }, func() Message { return new(Fail) },
		func() Message { return new(Points) }, func() Message { return new(PointList) },
		func() Message { return new(OpenDisk) }, func() Message { return new(ImageOpened) },
		func() Message { return new(ReadImage) }, func() Message { return new(Content) },
		func() Message { return new(ImageExtents) }, func() Message { return new(ExtentList) },
		func() Message { return new(CloseImage) },
		func() Message { return new(ReadBlob) }, func() Message { return new(BlobContent) },
		func() Message { return new(Begin) }, func() Message { return new(Begun) },
		func() Message { return new(StartDisk) }, func() Message { return new(DiskStarted) },
		func() Message { return new(Query) }, func() Message { return new(Known) },
		func() Message { return new(Put) }, func() Message { return new(Placed) },
		func() Message { return new(Mark) }, func() Message { return new(Write) },
		func() Message { return new(SealDisk) }, func() Message { return new(DropDisk) },
		func() Message { return new(StartBlob) }, func() Message { return new(BlobStarted) },
		func() Message { return new(BlobPart) }, func() Message { return new(SealBlob) },
		func() Message { return new(Commit) }, func() Message { return new(Committed) }, func() Message { return new(DropPoint) },
		func() Message { return new(Usage) }, func() Message { return new(UsageIs) },
		func() Message { return new(Images) }, func() Message { return new(ImageList) }, func() Message { return new(OpenSource) },
		func() Message { return new(Collect) }, func() Message { return new(Collected) },
		func() Message { return new(StoreOpen) }, func() Message { return new(StoreOpened) },
		func() Message { return new(StorePart) }, func() Message { return new(StoreSeal) }, func() Message { return new(StoreDrop) },
		func() Message { return new(StoreRead) }, func() Message { return new(StoreStat) }, func() Message { return new(StoreSize) },
		func() Message { return new(StoreList) }, func() Message { return new(StoreNames) },
		func() Message { return new(StoreRemove) }, func() Message { return new(StoreProbe) }, func() Message { return new(StoreIs) },
		func() Message { return new(Enrol) }, func() Message { return new(Enrolled) }, func() Message { return new(Rotate) },
		func() Message { return new(Health) }, func() Message { return new(HealthIs) },
	} {
		makers[make().Kind()] = make
	}
}

// Bounds of payloads, in bytes.
const (
	maxSmall = 4 << 10
	maxList  = 1 << 20
	maxData  = 5 << 20 // one block of at most 4 MiB, encoded

	maxFields = 256 // what stands before a message's content
)

// bound is the most that the payload of a message may take.
func bound(k Kind) int {
	switch k {
	case KindContent, KindPut, KindWrite:
		return maxPayload
	case KindBlobContent, KindBlobPart, KindStorePart:
		return MaxPart + maxFields
	case KindPointList, KindExtentList, KindQuery, KindBegin, KindCommit, KindImageList, KindCollect, KindCollected, KindStoreNames:
		return maxList
	}
	return maxSmall
}
