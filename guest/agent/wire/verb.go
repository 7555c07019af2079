package wire

// Version is that of this protocol. A component of another version is replaced, never talked to.
const Version = 1

// Verb is what a request asks for.
type Verb string

// The verbs. Each has a pair of structs: its arguments and its answer.
const (
	Hello   Verb = "hello"   // who is there
	Lease   Verb = "lease"   // go on living
	Inspect Verb = "inspect" // file systems, applications, scripts
	Prepare Verb = "prepare" // applications get ready for a freeze
	Freeze  Verb = "freeze"  // scripts, applications' last step, file systems
	Thaw    Verb = "thaw"    // file systems, applications go on, scripts
	Finish  Verb = "finish"  // applications hand out what a restore needs
	Settle  Verb = "settle"  // the restore point is durable, or there is none
	Index   Verb = "index"   // gives data: a file index (package guest/index)
	Logs    Verb = "logs"    // which transaction logs there are
	Fetch   Verb = "fetch"   // gives data: one transaction log
	Shipped Verb = "shipped" // transaction logs are stored safely
	Install Verb = "install" // takes data: a signed package. Installer services only
	Enrol   Verb = "enrol"   // a certificate for a temporary one
	Remove  Verb = "remove"  // take everything of ours away and end
)

// Verbs are all there are, in the order above.
var Verbs = []Verb{Hello, Lease, Inspect, Prepare, Freeze, Thaw, Finish, Settle, Index, Logs, Fetch, Shipped, Install, Enrol, Remove}

// GivesData reports whether Data frames come before the answer.
func (v Verb) GivesData() bool { return v == Index || v == Fetch }

// TakesData reports whether Data frames follow the request.
func (v Verb) TakesData() bool { return v == Install }

// HelloArgs begin a session.
type HelloArgs struct {
	Version int    `json:"version"`
	Session string `json:"session"` // for the component's log
	// LeaseMillis is how long the component lives without hearing from us, 1 s to 1 h. Zero: 60 s.
	LeaseMillis int64 `json:"leaseMillis"`
}

// HelloAnswer says who is there.
type HelloAnswer struct {
	Version   int    `json:"version"`
	Product   string `json:"product"` // hikae-agent and its version
	Persist   bool   `json:"persist"` // the persistent component
	Installer bool   `json:"installer"`
	OS        string `json:"os"`
	Arch      string `json:"arch"`
	Host      string `json:"host"`
	PID       int    `json:"pid"`
	Admin     bool   `json:"admin"` // it may freeze
	Boot      string `json:"boot"`  // changes with each start of the guest
	Verbs     []Verb `json:"verbs"` // that it has
	// Unverified says in words what of this build was never run on a real system of its kind. It is shown to users.
	Unverified string `json:"unverified"`
}

// LeaseArgs renew the lease. Every other frame does so too.
type LeaseArgs struct{}

// LeaseAnswer tells what is left.
type LeaseAnswer struct {
	LeaseMillis int64 `json:"leaseMillis"`
	Frozen      bool  `json:"frozen"`
}

// InspectArgs choose what to look at.
type InspectArgs struct {
	Applications bool `json:"applications"`
}

// InspectAnswer is what is there.
type InspectAnswer struct {
	Volumes      []Volume      `json:"volumes"`
	Applications []Application `json:"applications"`
	Scripts      []string      `json:"scripts"` // that a freeze and a thaw would run
	Notes        []string      `json:"notes"`   // in words
}

// Volume is a mounted file system, or a Windows volume.
type Volume struct {
	Mount  string `json:"mount"`  // the first place where it is mounted
	Device string `json:"device"` // /dev/sda1, or \\?\Volume{…}\
	Type   string `json:"type"`   // ext4, NTFS …
	Size   int64  `json:"size"`   // bytes
	Free   int64  `json:"free"`   // bytes
	Skip   string `json:"skip"`   // why a freeze leaves it out; empty where it does not
}

// Application is something with state of its own: a database server, a VSS writer.
type Application struct {
	Kind    string   `json:"kind"` // postgresql, mariadb, mysql, vss, sqlserver
	Name    string   `json:"name"` // instance or writer, unique in the guest for its kind
	Version string   `json:"version"`
	State   string   `json:"state"`   // ready, or why not, in words
	Folders []string `json:"folders"` // where its data is
	Logs    string   `json:"logs"`    // whether its logs can be shipped: yes, or why not, in words
}

// PrepareArgs choose applications.
type PrepareArgs struct {
	// Skip are names of applications that are left alone, as Kind/Name.
	Skip []string `json:"skip"`
	// CopyOnly leaves logs and backup histories as they are. The default elsewhere may be a full backup.
	CopyOnly bool `json:"copyOnly"`
	// Label is what applications call this backup in their own records.
	Label string `json:"label"`
	// LimitMillis bounds the whole. Zero: 60 s.
	LimitMillis int64 `json:"limitMillis"`
}

// PrepareAnswer has one Outcome for each application.
type PrepareAnswer struct {
	Applications []Outcome `json:"applications"`
}

// Outcome is how a step went for one application.
type Outcome struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Problem string `json:"problem"` // in words
	Millis  int64  `json:"millis"`
}

// FreezeArgs say what is frozen, and for how long at most.
type FreezeArgs struct {
	// Mounts are frozen; none: all that can be.
	Mounts []string `json:"mounts"`
	// HoldMillis is when the watchdog thaws by itself, 500 ms to 60 s. Zero: 8 s.
	HoldMillis int64 `json:"holdMillis"`
	// Scripts runs pre-freeze and post-thaw scripts, each for ScriptMillis at most (zero: 10 min before a freeze). A
	// script before the freeze that fails is a veto.
	Scripts      bool  `json:"scripts"`
	ScriptMillis int64 `json:"scriptMillis"`
}

// FreezeAnswer says what is frozen.
type FreezeAnswer struct {
	Frozen  []Frozen       `json:"frozen"`
	Skipped []Volume       `json:"skipped"`
	Scripts []ScriptResult `json:"scripts"`
	// Applications are those that hold their commits now.
	Applications []Outcome `json:"applications"`
}

// Frozen is a file system that does not change now.
type Frozen struct {
	Mount  string `json:"mount"`
	Type   string `json:"type"`
	Micros int64  `json:"micros"` // that freezing took
}

// ScriptResult is how a script of the guest's administrator ended.
type ScriptResult struct {
	Path      string `json:"path"`
	Phase     string `json:"phase"` // freeze, freezeFail, thaw
	ExitCode  int    `json:"exitCode"`
	Output    string `json:"output"` // of both streams, at most 16 KiB
	Truncated bool   `json:"truncated"`
	Problem   string `json:"problem"` // where it could not be run or ran too long
	Millis    int64  `json:"millis"`
}

// ThawArgs thaw. Thawing what is not frozen is no error.
type ThawArgs struct{}

// ThawAnswer says how it went.
type ThawAnswer struct {
	// Held says that everything was frozen until now. False: the watchdog had thawed before, and what was copied is
	// crash-consistent.
	Held         bool           `json:"held"`
	FrozenMicros int64          `json:"frozenMicros"`
	Thawed       []string       `json:"thawed"`
	Scripts      []ScriptResult `json:"scripts"`
	Applications []Outcome      `json:"applications"`
}

// FinishArgs end what Prepare began.
type FinishArgs struct {
	LimitMillis int64 `json:"limitMillis"`
}

// FinishAnswer has what a restore needs, to be kept with the point.
type FinishAnswer struct {
	Applications []Outcome `json:"applications"`
	Records      []Record  `json:"records"`
}

// Record is a small file that belongs to the restore point: PostgreSQL's backup_label, VSS's backup components document.
type Record struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	File    string `json:"file"` // backup_label, tablespace_map, binlog.json, components.xml
	Content []byte `json:"content"`
}

// SettleArgs tell the writers.
type SettleArgs struct {
	Durable bool `json:"durable"` // the restore point is
	// Truncate lets applications drop logs that the point has made needless.
	Truncate bool `json:"truncate"`
}

// SettleAnswer has one Outcome for each application that was told.
type SettleAnswer struct {
	Applications []Outcome `json:"applications"`
}

// IndexArgs choose folders.
type IndexArgs struct {
	Include []string `json:"include"` // none: all
	Exclude []string `json:"exclude"`
}

// IndexAnswer comes after the data.
type IndexAnswer struct {
	Entries int64    `json:"entries"`
	Bytes   int64    `json:"bytes"` // of data
	Skipped []string `json:"skipped"`
}

// LogsArgs choose an application.
type LogsArgs struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Begin makes the application keep logs for us where it does not yet (a replication slot).
	Begin bool `json:"begin"`
	// End makes it stop keeping them. With neither Kind nor Name all applications of the guest do.
	End bool `json:"end"`
	// Unbounded lets Begin make what keeps logs where nothing bounds how much that may be (a replication slot of a server
	// whose max_slot_wal_keep_size is -1): a guest whose logs nobody takes any more fills its disk.
	Unbounded bool `json:"unbounded,omitempty"`
}

// LogsAnswer lists logs that are complete, oldest first.
type LogsAnswer struct {
	Timeline string `json:"timeline"` // logs of another one do not continue these
	Logs     []Log  `json:"logs"`
	// Gap says in words what is missing between what was shipped last and what is here.
	Gap string `json:"gap"`
	// New says that what keeps logs for us was made just now: nothing tells that these continue what was shipped before.
	New bool `json:"new,omitempty"`
}

// Log is one transaction log.
type Log struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	Time string `json:"time"` // RFC 3339, when it was complete
	// Mark says that something later than Time is in this log too, so that a restore to any moment up to Time ends
	// within it. Without one, logs lead to their own ends alone.
	Mark bool `json:"mark"`
}

// FetchArgs name a log that LogsAnswer listed.
type FetchArgs struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	Log  string `json:"log"`
}

// FetchAnswer comes after the data.
type FetchAnswer struct {
	Bytes  int64  `json:"bytes"`
	SHA256 []byte `json:"sha256"`
}

// ShippedArgs name logs that need not be kept for us any more.
type ShippedArgs struct {
	Kind string   `json:"kind"`
	Name string   `json:"name"`
	Logs []string `json:"logs"`
}

// ShippedAnswer is empty.
type ShippedAnswer struct{}

// InstallArgs announce a package.
type InstallArgs struct {
	Name      string `json:"name"`
	Version   string `json:"version"`
	OS        string `json:"os"`
	Arch      string `json:"arch"`
	Size      int64  `json:"size"`
	SHA256    []byte `json:"sha256"`
	Downgrade bool   `json:"downgrade"` // the signer allows an older version
	Signature []byte `json:"signature"` // Ed25519 (package guest/install/pack says over what)
}

// InstallAnswer says what is installed now.
type InstallAnswer struct {
	Installed string `json:"installed"` // version
	Replaced  string `json:"replaced"`  // version, or empty
}

// EnrolArgs carry a public key: that of the client itself, which it will show from now on, or with a name that of another
// machine, which is let in too.
type EnrolArgs struct {
	Key  []byte `json:"key"`  // Ed25519, 32 bytes
	Name string `json:"name"` // empty: the client's own
	Role string `json:"role"` // full or guest; of another machine
}

// EnrolAnswer is the component's side.
type EnrolAnswer struct {
	Pin string `json:"pin"` // of the component's own key
}

// RemoveArgs end the component.
type RemoveArgs struct{}

// RemoveAnswer says what it has taken away, and what goes with its end.
type RemoveAnswer struct {
	Removed []string `json:"removed"`
	Last    []string `json:"last"` // paths that vanish when the process ends
}
