package guesttest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Pause stops every process of the server, Resume lets them go on: a host that hangs, and answers nobody.
func (w *World) Pause()  { signal(w.family(), syscall.SIGSTOP) }
func (w *World) Resume() { signal(w.family(), syscall.SIGCONT) }

// Cut ends every session without a word, as a broken link does: what was started in them lives on and reads the end of its
// input. The server itself goes on.
func (h *Host) Cut() {
	server, w := h.server(), h.World
	family := below(w.cmd.Process.Pid)
	for _, p := range processes() {
		if p.id != server && p.name == "sshd" && slices.Contains(family, p.id) {
			kill([]int{p.id})
		}
	}
}

// Path is where a file of the server's own mounts is found from outside.
func (w *World) Path(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", w.server(), path)
}

// Left names what components left behind: files and folders called hikae-… in the places for them, and processes whose
// program is one of those, or was.
func (w *World) Left() (left []string) {
	for _, dir := range []string{"/tmp", "/var/tmp", "/root", "/home", "/home/*", "/dev/shm", "/opt", "/var/lib"} {
		found, _ := filepath.Glob(w.Path(dir) + "/hikae-*")
		hidden, _ := filepath.Glob(w.Path(dir) + "/.hikae-*")
		left = append(left, append(found, hidden...)...)
	}
	for _, id := range w.family() {
		if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", id)); strings.Contains(exe, "hikae-") {
			left = append(left, fmt.Sprintf("process %d of %s", id, exe))
		}
	}
	return left
}

// server is the process id of the server itself.
func (w *World) server() int {
	for _, id := range w.family() {
		if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", id)); strings.TrimSpace(string(name)) == w.daemon {
			return id
		}
	}
	return 0
}

// family is the server and all that it started, oldest first.
func (w *World) family() []int { return below(w.cmd.Process.Pid) }

// process is one line of the table of processes.
type process struct {
	id, parent int
	name       string
}

func processes() (all []process) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		open, close := strings.IndexByte(string(text), '('), strings.LastIndexByte(string(text), ')')
		if err != nil || open < 0 || close < open {
			continue
		}
		id, _ := strconv.Atoi(strings.TrimSpace(string(text[:open])))
		fields := strings.Fields(string(text[close+1:]))
		if len(fields) < 2 {
			continue
		}
		parent, _ := strconv.Atoi(fields[1])
		all = append(all, process{id: id, parent: parent, name: string(text[open+1 : close])})
	}
	slices.SortFunc(all, func(a, b process) int { return a.id - b.id })
	return all
}

// below is a process with all its descendants.
func below(root int) []int {
	family := []int{root}
	all := processes()
	for i := 0; i < len(family); i++ {
		for _, p := range all {
			if p.parent == family[i] && p.id != family[i] {
				family = append(family, p.id)
			}
		}
	}
	return family
}

func signal(ids []int, sig syscall.Signal) {
	for _, id := range ids {
		syscall.Kill(id, sig)
	}
}

func kill(ids []int) { signal(ids, syscall.SIGKILL) }
