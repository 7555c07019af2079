package jobfile

import (
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae/job/schedule"
)

var (
	goodName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	goodEnv    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	withSecret = regexp.MustCompile(`^[a-z0-9+]+://[^/?#@]*:[^/?#@]*@`)
	place      = regexp.MustCompile(`\{[^}]*\}`)
)

const (
	maxTasks    = 10_000
	maxAttempts = 100
	// defaultCatchUp makes up for a night, and not for what the next run is about to do anyhow.
	defaultCatchUp = 12 * time.Hour
)

// check is what only several fields together tell.
func (f *File) check(d *decoder) {
	if f.Name != "" && !goodName.MatchString(f.Name) {
		d.at("name", "Write letters, digits, dot, dash and underscore, at most 64.", "%q is no name for a job", shorten(f.Name))
	}
	f.Repository.check(d, "repository")
	f.checkSources(d)
	for i := range f.Guest {
		f.Guest[i].check(d, fmt.Sprintf("guest[%d]", i))
	}
	f.checkWork(d)
	f.checkTimes(d)
	for i := range f.Copies {
		c, at := &f.Copies[i], fmt.Sprintf("copies[%d]", i)
		c.Repository.check(d, at+".repository")
		if c.Repository.URL != "" && c.Repository.URL == f.Repository.URL {
			d.at(at+".repository.url", "", "is the job's own repository")
		}
		c.Retention.check(d, at+".retention")
	}
	for i := range f.Hooks {
		f.Hooks[i].check(d, fmt.Sprintf("hooks[%d]", i))
	}
	f.Report.check(d)
}

func (r *Repository) check(d *decoder, field string) {
	d.address(field+".url", r.URL)
	d.oneSecret(field, map[string]string{"password-file": r.PasswordFile, "password-env": r.PasswordEnv, "key-file": r.KeyFile, "identity-file": r.IdentityFile})
	d.variable(field+".password-env", r.PasswordEnv)
}

// address refuses a password in a URL, without repeating it.
func (d *decoder) address(field, text string) {
	if withSecret.MatchString(text) {
		d.at(field, "Put it into a file that only this user may read, and name that by password-file.", "a password stands in the address")
	}
}

func (d *decoder) variable(field, name string) {
	if name != "" && !goodEnv.MatchString(name) {
		d.at(field, "Name the variable, not what it holds.", "is no name of an environment variable")
	}
}

// oneSecret refuses several places of one secret: nobody could tell which of them counts.
func (d *decoder) oneSecret(field string, ways map[string]string) {
	var given []string
	for name, value := range ways {
		if value != "" {
			given = append(given, name)
		}
	}
	if slices.Sort(given); len(given) > 1 {
		d.at(field+"."+given[1], "Name one.", "%s are given together", strings.Join(given, " and "))
	}
}

func (f *File) checkSources(d *decoder) {
	if len(f.Sources) == 0 && d.places["sources"] != nil {
		d.at("sources", "", "is empty: nothing would be backed up")
	}
	names := map[string]int{}
	for i := range f.Sources {
		s, at := &f.Sources[i], fmt.Sprintf("sources[%d]", i)
		s.check(d, at)
		if s.Name == "" {
			continue
		}
		if first, twice := names[s.Name]; twice {
			d.at(at+".name", "A VM's points are found by its name.", "%s is the name of sources[%d] too", s.Name, first)
		} else {
			names[s.Name] = i
		}
	}
}

var sourceSchemes = []string{"vsphere", "hyperv", "kvm", "kvm+libvirt"}

func (s *Source) check(d *decoder, field string) {
	scheme, _, isURL := strings.Cut(s.URL, "://")
	switch {
	case d.places[field] == nil:
	case s.URL == "" && len(s.Disks) == 0:
		d.at(field, "", "names neither a url nor disks")
	case s.URL != "" && len(s.Disks) > 0:
		d.at(field, "Write two sources.", "url and disks are given together")
	case len(s.Disks) > 0 && s.Name == "":
		d.at(field, "Add name: the VM's points are found by it.", "disk files have no name of their own")
	case len(s.Disks) > 0 && len(s.Include)+len(s.Exclude)+len(s.Tags) > 0:
		d.at(field, "", "include, exclude and tags are for a url")
	case s.URL != "" && !isURL:
		d.at(field+".url", "Disk files are listed under disks.", "%q is no address", shorten(s.URL))
	case s.URL != "" && !slices.Contains(sourceSchemes, scheme):
		hint := "There are " + strings.Join(sourceSchemes, ", ") + "."
		if near := suggest(scheme, sourceSchemes); near != "" {
			hint = "Did you mean " + near + "://?"
		}
		d.at(field+".url", hint, "VMs at %s:// are not known", shorten(scheme))
	case len(s.Tags) > 0 && scheme != "vsphere":
		d.at(field+".tags", "Use include and exclude.", "only vSphere has tags")
	case s.ForceLive && s.URL != "":
		d.at(field+".force-live", "", "is for disk files")
	}
	d.address(field+".url", s.URL)
	d.oneSecret(field, map[string]string{"password-file": s.PasswordFile, "password-env": s.PasswordEnv})
	d.variable(field+".password-env", s.PasswordEnv)
	d.patterns(field+".include", s.Include)
	d.patterns(field+".exclude", s.Exclude)
}

// patterns refuses globs that nothing can fit.
func (d *decoder) patterns(field string, list []string) {
	for _, p := range list {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			d.at(field, "Names of VMs, in which * ? and [a-z] are wild.", "%q is no pattern", shorten(p))
		}
	}
}

// Fits reports whether a name fits one of some patterns. No patterns fit everything.
func Fits(patterns []string, name string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, name)
		return p == name || err == nil && ok
	})
}

// Takes reports whether a VM of the source is one that is meant.
func (s *Source) Takes(name string) bool {
	return Fits(s.Include, name) && (len(s.Exclude) == 0 || !Fits(s.Exclude, name))
}

func (g *Guest) check(d *decoder, field string) {
	d.patterns(field+".vms", g.VMs)
	for _, way := range g.Ways {
		d.address(field+".ways", way)
		d.templates(field+".ways", way, "{vm}")
		if !strings.Contains(way, "://") {
			d.at(field+".ways", "For instance ssh://root@{vm}.", "%q is no address", shorten(way))
		}
	}
	d.oneSecret(field, map[string]string{"credentials": g.Credentials, "password-file": g.PasswordFile, "password-env": g.PasswordEnv})
	d.variable(field+".password-env", g.PasswordEnv)
}

// templates refuses words in braces that stand for nothing.
func (d *decoder) templates(field, text string, known ...string) {
	for _, word := range place.FindAllString(text, -1) {
		if !slices.Contains(known, word) {
			d.at(field, "There are "+strings.Join(known, ", ")+".", "%s stands for nothing", shorten(word))
		}
	}
}

func (f *File) checkWork(d *decoder) {
	d.most("limits.tasks", f.Limits.Tasks, maxTasks)
	for class, each := range f.Limits.classes() {
		for name, n := range each {
			if n == 0 {
				d.at(class+"."+name, "Leave VMs out by a source's exclude.", "0 would never let a VM begin")
			}
			d.most(class+"."+name, n, maxTasks)
		}
	}
	d.most("retry.attempts", f.Retry.Attempts, maxAttempts)
	if f.Retry.Most > 0 && f.Retry.First > f.Retry.Most {
		d.at("retry.first", "", "is longer than retry.most")
	}
	if v := f.Verify; v != nil {
		if v.Data != "" && v.Days > 0 {
			d.at("verify.days", "Name one.", "data and days are given together")
		}
		d.most("verify.days", v.Days, 3660)
	}
	if b := f.BootCheck; b != nil {
		b.check(d)
	}
	for i, r := range f.Replicas {
		at := fmt.Sprintf("replicas[%d]", i)
		d.patterns(at+".vms", r.VMs)
		if strings.Contains(r.To, "://") {
			d.at(at+".to", "Name a folder of the machine that would run them.", "replicas are in a folder, and at no address yet")
		}
		d.most(at+".keep", r.Keep, 30)
	}
	f.Retention.check(d, "retention")
}

var bootSign = regexp.MustCompile(`^(agent|screen|tcp:[0-9]{1,5}|serial:.{1,256})$`)

func (b *BootCheck) check(d *decoder) {
	d.patterns("boot-check.vms", b.VMs)
	for _, sign := range b.WaitFor {
		text, serial := strings.CutPrefix(sign, "serial:")
		switch _, err := regexp.Compile(text); {
		case !bootSign.MatchString(sign):
			d.at("boot-check.wait-for", "It is agent, tcp:PORT, serial:REGEXP or screen.", "%q says nothing about a VM that has booted", shorten(sign))
		case serial && err != nil:
			d.at("boot-check.wait-for", "The syntax is that of Go's package regexp.", "%v", err)
		}
	}
}

func (d *decoder) most(field string, n, most int) {
	if n > most {
		d.at(field, "", "%d is more than %d", n, most)
	}
}

func (r *Retention) check(d *decoder, field string) {
	if r == nil {
		return
	}
	if r.Zone != "" {
		d.zone(field+".zone", r.Zone)
	}
	if len(r.Keep.Tags) > 0 {
		d.at(field+".keep", "", "points of a job have no tags")
	}
}

// zone finds a time zone; this machine's where none is named.
func (d *decoder) zone(field, name string) *time.Location {
	z, err := LoadZone(name)
	if err != nil {
		d.at(field, "For instance Europe/Berlin, or UTC.", "%q is no time zone that this machine knows", shorten(name))
		return time.UTC
	}
	return z
}

// LoadZone is a time zone by its name; this machine's where it is empty.
func LoadZone(name string) (*time.Location, error) {
	if name == "" {
		return time.Local, nil
	}
	return time.LoadLocation(name)
}

// checkTimes makes schedules and windows.
func (f *File) checkTimes(d *decoder) {
	s, w := &f.Schedule, &f.Window
	zone := d.zone("schedule.zone", s.Zone)
	for i, text := range s.At {
		one, err := schedule.Parse(text, zone)
		if err != nil {
			d.schedule(d.entry("schedule.at", i), err)
			continue
		}
		f.runs = append(f.runs, one)
	}
	if !s.caught {
		s.CatchUp = Duration(defaultCatchUp)
	}
	if w.Zone == "" {
		w.Zone = s.Zone
	} else {
		zone = d.zone("window.zone", w.Zone)
	}
	for i, text := range w.Open {
		if _, err := schedule.ParseWindow([]string{text}, zone); err != nil {
			d.schedule(d.entry("window.open", i), err)
		}
	}
	var err error
	if f.window, err = schedule.ParseWindow(w.Open, zone); err != nil && len(d.problems) == 0 {
		d.at("window.open", "", "%v", err)
	}
	for _, r := range f.retentions() {
		if r.Zone == "" {
			r.Zone = s.Zone
		}
	}
}

// retentions are those of all repositories.
func (f *File) retentions() (out []*Retention) {
	if f.Retention != nil {
		out = append(out, f.Retention)
	}
	for i := range f.Copies {
		if r := f.Copies[i].Retention; r != nil {
			out = append(out, r)
		}
	}
	return out
}

// entry is a list's entry, or the field where one alone was written without a list.
func (d *decoder) entry(field string, i int) string {
	if one := fmt.Sprintf("%s[%d]", field, i); d.places[one] != nil {
		return one
	}
	return field
}

func (d *decoder) schedule(field string, err error) {
	e, ok := err.(*schedule.Error)
	if !ok {
		d.at(field, "", "%v", err)
		return
	}
	d.at(field, e.Hint, "%s", e.Error())
}

func (h *Hook) check(d *decoder, field string) {
	before := strings.HasPrefix(h.When, "before-")
	switch {
	case d.places[field] == nil:
		return
	case len(h.Run) == 0 && h.URL == "":
		d.at(field, "", "names neither a program (run) nor an address (url)")
	case len(h.Run) > 0 && h.URL != "":
		d.at(field, "Write two hooks.", "run and url are given together")
	case before && len(h.If) > 0:
		d.at(field+".if", "", "is for hooks after the work: before it there is no outcome")
	case !before && h.OnFailure == "stop":
		d.at(field+".on-failure", "", "stop is for hooks before the work")
	case h.URL != "":
		h.checkURL(d, field)
	default:
		h.checkRun(d, field)
	}
}

func (h *Hook) checkURL(d *decoder, field string) {
	u, err := url.Parse(h.URL)
	switch {
	case err != nil || u.Host == "":
		d.at(field+".url", "For instance https://example.org/hook.", "is no address")
	case u.User != nil:
		d.at(field+".url", "Posts are signed: name the secret by secret-file.", "a user or password stands in the address")
	case u.Scheme == "http" && !h.Plain:
		d.at(field+".url", "Use https://, or say plain: true.", "everybody on the way could read it")
	case u.Scheme != "http" && u.Scheme != "https":
		d.at(field+".url", "Use https://.", "%s:// is no address that can be posted to", shorten(u.Scheme))
	case len(h.Env) > 0 || h.OnFailure == "stop":
		d.at(field, "What cannot be delivered is a warning and never a lost backup.", "env and on-failure: stop are for programs")
	}
	d.oneSecret(field, map[string]string{"secret-file": h.SecretFile, "secret-env": h.SecretEnv})
	d.variable(field+".secret-env", h.SecretEnv)
}

func (h *Hook) checkRun(d *decoder, field string) {
	if h.SecretFile != "" || h.SecretEnv != "" || h.Plain {
		d.at(field, "", "secret-file, secret-env and plain are for a url")
	}
	if !filepath.IsAbs(h.Run[0]) {
		d.at(field+".run", "A service has another PATH than you have.", "%q is no absolute path of a program", shorten(h.Run[0]))
	}
	for name := range h.Env {
		if !goodEnv.MatchString(name) || strings.HasPrefix(name, "HIKAE_") {
			d.at(field+".env", "Names that begin with HIKAE_ are Hikae's own.", "%q is no name for a variable", shorten(name))
		}
	}
}

func (r *Report) check(d *decoder) {
	for name, text := range map[string]string{"html": r.HTML, "json": r.JSON, "text": r.Text} {
		d.templates("report."+name, text, "{job}", "{run}", "{date}")
	}
}
