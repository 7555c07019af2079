package jobfile

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// good is a job in which one thing is wrong in each case: lines 1 to 6.
const good = `name: nightly
repository:
  url: /backup/hikae
sources:
  - name: a
    disks: [a.raw]
`

// Each message is what a person reads who made that mistake.
var mistakes = []struct{ name, text, want string }{
	{"a field misspelled", good + "retenton:\n  keep: last=3\n",
		`job.yaml:7:1: retenton: is not known here. Did you mean retention?`},
	{"an underscore", "name: a\nrepository: {url: r, password_file: p}\nsources: [{url: 'kvm:///q'}]\n",
		`job.yaml:2:22: repository.password_file: is not known here. Did you mean password-file?`},
	{"a field that must be there, misspelled", "name: a\nrepository: {url: r}\nsource: [{url: 'kvm:///q'}]\n",
		`job.yaml:3:1: source: is not known here. Did you mean sources?`},
	{"another program's word", good + "cron: 0 22 * * *\n",
		`job.yaml:7:1: cron: is not known here. Did you mean schedule?`},
	{"nothing near", good + "colour: blue\n",
		`job.yaml:7:1: colour: is not known here. There are boot-check, compression, copies, exclude, guest, hooks, limits, name, replicas, report, repository, retention, retry, schedule, sources, verify, window.`},
	{"a replica at an address", good + "replicas: [{to: 'kvm:///replica', keep: 31}]\n",
		`job.yaml:7:17: replicas[0].to: replicas are in a folder, and at no address yet. Name a folder of the machine that would run them.
job.yaml:7:41: replicas[0].keep: 31 is more than 30`},
	{"the secret itself", "name: a\nrepository:\n  url: r\n  password: hunter2\nsources: [{url: 'kvm:///q'}]\n",
		`job.yaml:4:3: repository.password: a secret does not stand in a job file. Put it into a file that only this user may read, and name that by password-file.`},
	{"a password in an address", "name: a\nrepository: {url: r}\nsources:\n  - url: vsphere://me:hunter2@vc/?vm=web1\n",
		`job.yaml:4:10: sources[0].url: a password stands in the address. Put it into a file that only this user may read, and name that by password-file.`},
	{"no name", "repository: {url: r}\nsources: [{url: 'kvm:///q'}]\n",
		`job.yaml:1:1: name: is missing`},
	{"twice", good + "name: other\n",
		`job.yaml:7:1: name: stands there twice, first at line 1`},
	{"no dash", "name: a\nrepository: {url: r}\nsources:\n  url: kvm:///q\n",
		`job.yaml:4:3: sources: a group of fields stands where a list belongs. Put a dash and a blank in front of each entry.`},
	{"a tab", "name: a\nrepository:\n\turl: r\n",
		`job.yaml:3:1: a line begins with a tab, or a value with a character that has a meaning of its own. Indent with blanks, and put values that begin with * & % @ ` + "`" + ` or ! into quotes.`},
	{"a star without quotes", good + "guest:\n  - vms: *\n    ways: [ssh://a]\n",
		`job.yaml:8:1: what begins with * is the name of a value from elsewhere, and there is none of that name. Put values that begin with * or & into quotes.`},
	{"a yes", good + "exclude:\n  swap: yes\n",
		`job.yaml:8:9: exclude.swap: "yes" is neither true nor false. Write true or false.`},
	{"a word for a number", good + "limits: {tasks: four}\n",
		`job.yaml:7:17: limits.tasks: "four" is no number from 0 to 1073741824`},
	{"a limit that lets nothing begin", good + "limits: {datastores: {ds1: 0}}\n",
		`job.yaml:7:28: limits.datastores.ds1: 0 would never let a VM begin. Leave VMs out by a source's exclude.`},
	{"a value that is none", good + "compression:\n",
		`job.yaml:7:13: compression: has no value. Write a value after the colon, or leave the field out.`},
	{"another level", good + "compression: zstd\n",
		`job.yaml:7:14: compression: "zstd" is none of the words that it can be. It is none, fast, default, better or max.`},
	{"a rate without a unit that is known", good + "limits: {rate: 100 parsecs}\n",
		`job.yaml:7:16: limits.rate: "100 parsecs" is no rate; write 50MiB/s, 20MB/s or 100Mbit/s`},
	{"nine in the evening", good + "schedule:\n  at: daily at 9pm\n",
		`job.yaml:8:7: schedule.at: "daily at 9pm": "9pm" is no time from 00:00 to 23:59. Write hours and minutes, such as 22:00.`},
	{"a day that never comes", good + "schedule:\n  at: [daily at 22:00, 0 0 31 2 *]\n",
		`job.yaml:8:24: schedule.at[1]: "0 0 31 2 *": never comes: there is no such day`},
	{"a zone of its own", good + "schedule: {at: daily at 22:00, zone: Berlin}\n",
		`job.yaml:7:38: schedule.zone: "Berlin" is no time zone that this machine knows. For instance Europe/Berlin, or UTC.`},
	{"a window with words", good + "window: {open: at night}\n",
		`job.yaml:7:16: window.open: "at night": "atnight" is no day of the week. Days are mon, tue, wed, thu, fri, sat, sun; also mon-fri, weekdays and weekends.`},
	{"a retention that keeps nothing", good + "retention: {keep: {last: 0}}\n",
		`job.yaml:7:19: retention.keep: the policy keeps nothing: no number and no duration is above zero. For instance last: 3 and daily: 14.`},
	{"a rule misspelled", good + "retention: {keep: {dayly: 7}}\n",
		`job.yaml:7:20: retention.keep.dayly: is no rule of a retention. Did you mean daily?`},
	{"a time without a unit", good + "retry: {first: 10}\n",
		`job.yaml:7:16: retry.first: "10" is no time; write 90s, 10m, 6h or 30d`},
	{"disks without a name", "name: a\nrepository: {url: r}\nsources:\n  - disks: [a.raw]\n",
		`job.yaml:4:5: sources[0]: disk files have no name of their own. Add name: the VM's points are found by it.`},
	{"a file as an address", "name: a\nrepository: {url: r}\nsources:\n  - url: /vm/a.raw\n",
		`job.yaml:4:10: sources[0].url: "/vm/a.raw" is no address. Disk files are listed under disks.`},
	{"a scheme misspelled", "name: a\nrepository: {url: r}\nsources:\n  - url: vshpere://u@h/\n",
		`job.yaml:4:10: sources[0].url: VMs at vshpere:// are not known. Did you mean vsphere://?`},
	{"two VMs of one name", good + "  - name: a\n    disks: [b.raw]\n",
		`job.yaml:7:11: sources[1].name: a is the name of sources[0] too. A VM's points are found by its name.`},
	{"a shell line as a program", good + "hooks:\n  - when: after-job\n    run: echo done | mail me\n",
		`job.yaml:9:10: hooks[0].run: "echo done | mail me" stands where a list belongs. Put a dash and a blank in front of each entry.`},
	{"a hook that does nothing", good + "hooks:\n  - when: after-job\n",
		`job.yaml:8:5: hooks[0]: names neither a program (run) nor an address (url)`},
	{"another moment", good + "hooks: [{when: afterwards, url: 'https://h/'}]\n",
		`job.yaml:7:16: hooks[0].when: "afterwards" is none of the words that it can be. It is before-job, after-job, before-vm or after-vm.`},
	{"a hook everybody can read", good + "hooks: [{when: after-job, url: 'http://h/'}]\n",
		`job.yaml:7:32: hooks[0].url: everybody on the way could read it. Use https://, or say plain: true.`},
	{"what a variable holds", "name: a\nrepository: {url: r, password-env: 'correct horse'}\nsources: [{url: 'kvm:///q'}]\n",
		`job.yaml:2:36: repository.password-env: is no name of an environment variable. Name the variable, not what it holds.`},
	{"two secrets", "name: a\nrepository: {url: r, password-env: A, key-file: k}\nsources: [{url: 'kvm:///q'}]\n",
		`job.yaml:2:36: repository.password-env: key-file and password-env are given together. Name one.`},
	{"no colon", "name: a\nrepository\nsources: []\n",
		`job.yaml:2:1: a name without a colon. Write name: value, with a blank after the colon.`},
	{"indented too little", good + "limits:\n   tasks: 2\n  rate: 1M\n",
		`job.yaml:8:1: in what begins here a line is not indented as the others. Fields of one group begin in the same column.`},
	{"nothing to back up", "name: a\nrepository: {url: r}\nsources: []\n",
		`job.yaml:3:10: sources: is empty: nothing would be backed up`},
	{"a placeholder of another program", good + "report: {html: 'r-%d-{time}.html'}\n",
		`job.yaml:7:16: report.html: {time} stands for nothing. There are {job}, {run}, {date}.`},
}

func TestMistakes(t *testing.T) {
	for _, c := range mistakes {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("job.yaml", []byte(c.text))
			require.Error(t, err)
			require.Equal(t, c.want, err.Error())
			require.NotContains(t, err.Error(), "hunter2")
		})
	}
}

// All mistakes of a file are told at once, in the order of its lines.
func TestAllMistakesAtOnce(t *testing.T) {
	_, err := Parse("job.yaml", []byte("name: 'a b'\nrepository: {}\nsources:\n  - disks: []\nretry: {attempts: -1}\nwindow: {open: x}\n"))
	require.EqualError(t, err, `job.yaml:1:7: name: "a b" is no name for a job. Write letters, digits, dot, dash and underscore, at most 64.
job.yaml:2:13: repository.url: is missing
job.yaml:4:5: sources[0]: names neither a url nor disks
job.yaml:5:19: retry.attempts: "-1" is no number from 0 to 1073741824
job.yaml:6:16: window.open: "x": "x" is no day of the week. Days are mon, tue, wed, thu, fri, sat, sun; also mon-fri, weekdays and weekends.`)
}
