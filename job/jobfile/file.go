package jobfile

import (
	"github.com/hikae/hikae/job/schedule"
)

// File is a job as its file says it. Nil and empty fields are what was left out, for which each has a default.
type File struct {
	Name       string     `yaml:"name,required" doc:"What the job is called in reports and events: letters, digits, dot, dash and underscore."`
	Repository Repository `yaml:"repository,required" doc:"Where the points go."`
	Sources    []Source   `yaml:"sources,required" doc:"What is backed up."`

	Guest       []Guest `yaml:"guest" doc:"What is done inside the VMs. The first entry that fits a VM is used; a VM that none fits is left to its hypervisor's own means."`
	Exclude     Exclude `yaml:"exclude" doc:"What of the disks is not stored."`
	Compression string  `yaml:"compression" doc:"How hard blocks are compressed; by default as the repository was made." enum:"none fast default better max"`

	Limits   Limits   `yaml:"limits" doc:"How much is done at once."`
	Retry    Retry    `yaml:"retry" doc:"What fails is tried again."`
	Schedule Schedule `yaml:"schedule" doc:"When the job runs, with hikae job run --follow."`
	Window   Window   `yaml:"window" doc:"When work may be started. By default at any time."`

	Retention *Retention `yaml:"retention" doc:"Which points stay. It is applied after a run in which no VM failed. Without it all points stay."`
	Copies    []Copy     `yaml:"copies" doc:"Other repositories that get each new point too."`
	Verify    *Verify    `yaml:"verify" doc:"A look at the repository after the run."`
	BootCheck *BootCheck `yaml:"boot-check" doc:"Each new point is started in an isolated VM, to see that it boots."`
	Replicas  []Replica  `yaml:"replicas" doc:"VMs that are kept ready elsewhere, brought up to date after each run."`

	Hooks  []Hook `yaml:"hooks" doc:"Programs that are run, and addresses that are called, before and after the work."`
	Report Report `yaml:"report" doc:"Files that a run's report is written to."`

	runs   schedule.Set
	window schedule.Window
}

// Repository is where points are, and what opens it.
type Repository struct {
	URL          string   `yaml:"url,required" doc:"A folder, smb://HOST/SHARE/FOLDER, s3://HOST/BUCKET/PREFIX, stripe:FILE or mover://HOST/NAME."`
	PasswordFile string   `yaml:"password-file" doc:"A file whose first line is the passphrase."`
	PasswordEnv  string   `yaml:"password-env" doc:"The environment variable that holds the passphrase."`
	KeyFile      string   `yaml:"key-file" doc:"A file with a key of 32 bytes."`
	IdentityFile string   `yaml:"identity-file" doc:"A file with age identities."`
	Lock         Duration `yaml:"lock" doc:"The store keeps new points for so long, whoever asks. It cannot be taken back."`
}

// Source is where VMs are found, or one VM of disk files.
type Source struct {
	URL   string   `yaml:"url" doc:"vsphere://, hyperv://, kvm:// or kvm+libvirt://, as hikae backup takes them."`
	Name  string   `yaml:"name" doc:"The VM's name in the repository: needed for disk files, allowed for one VM."`
	Disks []string `yaml:"disks" doc:"Disk image files of one VM, each FILE or KEY=FILE."`

	PasswordFile string `yaml:"password-file" doc:"A file whose first line is the password of the user in the URL."`
	PasswordEnv  string `yaml:"password-env" doc:"The environment variable that holds it."`

	Include Strings `yaml:"include" doc:"Of the VMs that the URL means only those with such a name; * ? [a-z] are wild."`
	Exclude Strings `yaml:"exclude" doc:"And not those with such a name."`
	Tags    Strings `yaml:"tags" doc:"vSphere: only VMs with one of these tags, each CATEGORY:TAG or TAG."`

	ForceLive bool `yaml:"force-live" doc:"Take disk files that QEMU is writing to. The copy is then of no one moment, and the run ends with a warning."`
}

// Guest is what is done inside some VMs.
type Guest struct {
	VMs  Strings `yaml:"vms" doc:"Names of the VMs that this is for; * ? [a-z] are wild. None: all."`
	Ways Strings `yaml:"ways,required" doc:"Ways into the guest, tried in their order: ssh://USER@HOST, smb://, qga:///PATH, direct://HOST. {vm} stands for the VM's name."`

	Policy       string   `yaml:"policy" doc:"What a failure in the guest does: require fails the VM, try goes on crash-consistent." enum:"require try disable"`
	Scripts      string   `yaml:"scripts" doc:"The same for the guest's own pre-freeze and post-thaw scripts." enum:"require try disable"`
	Copy         string   `yaml:"copy" doc:"Whether applications take this for a copy beside their own backups." enum:"auto yes no"`
	Applications *bool    `yaml:"applications" doc:"Make databases and VSS writers ready. Default true."`
	Skip         Strings  `yaml:"skip" doc:"Applications to leave alone, each KIND/NAME."`
	TruncateLogs bool     `yaml:"truncate-logs" doc:"Let applications drop logs that a durable point has made needless."`
	Index        bool     `yaml:"index" doc:"Store a list of the guest's files with the point, for hikae find."`
	Hold         Duration `yaml:"hold" doc:"When the watchdog in the guest thaws by itself. Default 8s."`

	Credentials  string   `yaml:"credentials" doc:"A file of credentials for guests; see docs/guest.md."`
	PasswordFile string   `yaml:"password-file" doc:"A file whose first line is the password in the guests."`
	PasswordEnv  string   `yaml:"password-env" doc:"The environment variable that holds it."`
	SSHKey       string   `yaml:"ssh-key" doc:"A file with a private key for SSH."`
	SSHAgent     bool     `yaml:"ssh-agent" doc:"Use the keys of the SSH agent."`
	KnownHosts   Strings  `yaml:"known-hosts" doc:"Files of host keys."`
	Fingerprints Strings  `yaml:"fingerprints" doc:"Host keys that are taken, and no others: SHA256:…"`
	TrustFirst   bool     `yaml:"trust-first" doc:"Take an unknown host key the first time, and hold to it."`
	Proxies      Strings  `yaml:"proxies" doc:"mover:// addresses of proxies that work in the guest, in their order."`
	Timeout      Duration `yaml:"timeout" doc:"How long each way may take to answer."`
}

// Exclude is what is not stored.
type Exclude struct {
	Swap  *bool   `yaml:"swap" doc:"Swap space. Default true."`
	Free  *bool   `yaml:"free" doc:"Free space of file systems. Default true."`
	Files Strings `yaml:"files" doc:"Files of the guest, as hikae backup --exclude-file has them."`
}

// Limits are how much is done at once.
type Limits struct {
	Tasks int            `yaml:"tasks" doc:"VMs at once. Default 4."`
	Hosts map[string]int `yaml:"hosts" doc:"VMs at once from a host, by its name; \"*\" is each other."`

	Datastores   map[string]int `yaml:"datastores" doc:"VMs at once with disks on a datastore, volume or share, by its name; \"*\" is each other."`
	Proxies      map[string]int `yaml:"proxies" doc:"VMs at once through a proxy, by its name; \"*\" is each other."`
	Repositories map[string]int `yaml:"repositories" doc:"VMs at once into a repository, by its url; \"*\" is each other."`

	Shared bool `yaml:"shared" doc:"Hosts, datastores, proxies and repositories are counted together with the other jobs of this machine that say so. Default false."`

	Rate Rate `yaml:"rate" doc:"All VMs together read no more than this, such as 100MiB/s or 400Mbit/s."`
}

// Retry is how what failed is tried again.
type Retry struct {
	Attempts int      `yaml:"attempts" doc:"How often a VM is tried in all. Default 3; 1 is no second try."`
	First    Duration `yaml:"first" doc:"The wait before the second try. Default 10s; each wait after it is longer."`
	Most     Duration `yaml:"most" doc:"The longest wait. Default 10m."`
}

// Schedule is when the job runs.
type Schedule struct {
	At      Strings  `yaml:"at" doc:"One or more of: daily at 22:00; weekly on mon,fri at 22:00; monthly on last friday at 22:00; every 30 minutes; a cron line."`
	Zone    string   `yaml:"zone" doc:"The time zone of the times, such as Europe/Berlin. Default: this machine's."`
	CatchUp Duration `yaml:"catch-up" doc:"A run that was missed is made up for if it is not older than this. Default 12h; 0 makes up for none."`

	caught bool // CatchUp was said
}

// Window is when work may be started.
type Window struct {
	Open    Strings `yaml:"open" doc:"Spans of the week, such as \"mon-fri 20:00-06:00\" or \"sat,sun\"."`
	Zone    string  `yaml:"zone" doc:"Default: the schedule's."`
	AtClose string  `yaml:"at-close" doc:"What becomes of VMs that are being backed up when it closes. Default finish." enum:"finish stop"`
}

// Retention is which points stay.
type Retention struct {
	Keep  Keep   `yaml:"keep,required" doc:"How many points stay, as hikae forget has it: last, hourly, daily, weekly, monthly, yearly, within."`
	Zone  string `yaml:"zone" doc:"The zone that names days, weeks and months. Default: the schedule's."`
	Prune bool   `yaml:"prune" doc:"Free the room of what goes, at once. Otherwise a hikae prune does it."`
}

// Copy is another repository that gets each new point.
type Copy struct {
	Repository Repository `yaml:"repository,required" doc:"Where the copies go."`
	Rate       Rate       `yaml:"rate" doc:"Read no more than this."`
	Retention  *Retention `yaml:"retention" doc:"Which points stay there."`
}

// Verify is a look at the repository.
type Verify struct {
	Data Share `yaml:"data" doc:"How much is read and decoded: \"all\" or a share such as 5%. Without it the structure alone is looked at."`
	Days int   `yaml:"days" doc:"Instead: each run reads its part, so that in so many days all was read."`
	Rate Rate  `yaml:"rate" doc:"Read no more than this."`
}

// BootCheck is the start of new points in an isolated VM.
type BootCheck struct {
	VMs      Strings  `yaml:"vms" doc:"Names of the VMs whose points are started; * ? [a-z] are wild. None: all."`
	WaitFor  Strings  `yaml:"wait-for" doc:"What says that it has booted: agent, tcp:PORT, serial:REGEXP or screen; all that are named have to come. Default agent."`
	Probe    []string `yaml:"probe" doc:"A program of this machine that decides, with its arguments; no shell. See hikae bootcheck."`
	Deadline Duration `yaml:"deadline" doc:"How long it may take. Default 10m."`
	Accel    string   `yaml:"accel" doc:"kvm, or tcg, which emulates: for machines without KVM, ten times slower. Default: kvm where this machine has it." enum:"kvm tcg"`
}

// Replica is where VMs are kept ready.
type Replica struct {
	VMs  Strings `yaml:"vms" doc:"Names of the VMs; * ? [a-z] are wild. None: all."`
	To   string  `yaml:"to,required" doc:"The folder of the replicas on this machine, a site as hikae replica takes it."`
	Keep int     `yaml:"keep" doc:"How many points of each stay, 1 to 30. Default 8."`
	Rate Rate    `yaml:"rate" doc:"No more than this is read from the repository."`
}

// Hook is a program or an address.
type Hook struct {
	When string  `yaml:"when,required" doc:"before-job, after-job, before-vm or after-vm." enum:"before-job after-job before-vm after-vm"`
	If   Strings `yaml:"if" doc:"Only after these outcomes. Default: any." enum:"done warned failed cancelled"`

	Run       []string          `yaml:"run" doc:"A program and its arguments; no shell reads them."`
	Env       map[string]string `yaml:"env" doc:"Variables for the program besides those that Hikae gives it."`
	OnFailure string            `yaml:"on-failure" doc:"What its failure does: warn, or, before the work, stop. Default warn." enum:"warn stop"`

	URL        string   `yaml:"url" doc:"An https:// address that a JSON document is posted to."`
	SecretFile string   `yaml:"secret-file" doc:"A file whose first line is the secret that posts are signed with."`
	SecretEnv  string   `yaml:"secret-env" doc:"The environment variable that holds it."`
	Plain      bool     `yaml:"plain" doc:"Allow http://, which everybody on the way can read."`
	Deadline   Duration `yaml:"deadline" doc:"How long it may take in all. Default 1m."`
}

// Report is where a run's report goes.
type Report struct {
	HTML string `yaml:"html" doc:"One page of HTML. {job}, {run} and {date} stand for the job's name, the run and its day."`
	JSON string `yaml:"json" doc:"The same as JSON."`
	Text string `yaml:"text" doc:"The same as text."`
}

// Runs are the schedules of the job; none where it has none.
func (f *File) Runs() schedule.Set { return f.runs }

// Opening is the window of the job.
func (f *File) Opening() schedule.Window { return f.window }

// Of are the limits as package job/engine has them: by the names of resources, and "tasks" where the file says it.
func (l *Limits) Of() map[string]int {
	out := map[string]int{}
	if l.Tasks > 0 {
		out["tasks"] = l.Tasks
	}
	for class, each := range l.classes() {
		for name, n := range each {
			out[limitClasses[class]+"/"+name] = n
		}
	}
	return out
}

// Besides reports whether anything is limited but how many VMs there are at once.
func (l *Limits) Besides() bool {
	return len(l.Hosts)+len(l.Datastores)+len(l.Proxies)+len(l.Repositories) > 0
}

// limitClasses are what resources of a field are called, one by one.
var limitClasses = map[string]string{"limits.hosts": "host", "limits.datastores": "datastore", "limits.proxies": "proxy", "limits.repositories": "repository"}

// classes are the limits by the names of their fields.
func (l *Limits) classes() map[string]map[string]int {
	return map[string]map[string]int{"limits.hosts": l.Hosts, "limits.datastores": l.Datastores, "limits.proxies": l.Proxies, "limits.repositories": l.Repositories}
}
