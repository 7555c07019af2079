// Command msi packs hikae-agent.exe as an MSI: the persistent component of a Windows guest, that is the installer service
// of package guest/install/service under the service control manager. It needs wixl, msibuild (Debian: wixl, msitools)
// and, to sign, osslsigncode.
//
//	go run ./packaging/msi --program bin/hikae-agent.exe --version 1.2.3 --out bin/hikae-agent.msi
//	                       [--certificate CERT.pem --key KEY.pem [--timestamp URL]]
//
// The program and the MSI are both signed, in that order.
//
// # What the MSI does
//
// It puts the program into Program Files, lays the kit down (service setup --kit KIT), lets the kit's one port through the
// firewall for this program alone, and makes and starts the service hikae-agent as LocalSystem. Packages of components
// that lie beside the kit are installed by the way. Removing it stops and deletes the service, its keys, its components
// and the rule. An upgrade keeps them and needs no kit.
//
// KIT is the only property: the path of the kit that the controller made for this guest or, with a name for many, for a
// group of them. Without it the MSI takes the kit.json that lies beside it. A kit is a secret for as long as its temporary
// key is good, so its folder must not be readable by everybody.
//
// # Ways to install it
//
//	by hand        msiexec /i hikae-agent.msi KIT=C:\kit.json
//	by script      msiexec /i \\server\share\hikae-agent.msi KIT=\\server\share\kit.json /qn /norestart /l*v log.txt
//	by policy      Computer Configuration, Software Settings, Software installation, New, Package, Assigned; the MSI and its
//	               kit.json in one share that "Domain Computers" may read, and nobody else but administrators
//	without MSI    hikae-agent.exe service install --kit C:\kit.json       and: hikae-agent.exe service remove
//
// The MSI was never installed on a real Windows; its tables are tested as they are written.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

//go:embed agent.wxs
var source []byte

// Options say what is packed.
type Options struct {
	Program string // hikae-agent.exe
	Version string // 1.2.3: at most 255.255.65535
	Out     string // the MSI

	// Certificate and Key sign, both in PEM; empty: nothing is signed. Timestamp is the address of a time stamping
	// authority: without it signatures end with the certificate.
	Certificate, Key, Timestamp string
}

const stepLimit = 2 * time.Minute

// secure are the properties that a caller without elevation may hand to the elevated half. Wixl knows only its own.
const secure = "UPDATE `Property` SET `Value` = 'KIT;WIX_DOWNGRADE_DETECTED;WIX_UPGRADE_DETECTED' WHERE `Property` = 'SecureCustomProperties'"

var versionRule = regexp.MustCompile(`^(25[0-5]|2[0-4]\d|1?\d?\d)\.(25[0-5]|2[0-4]\d|1?\d?\d)\.\d{1,5}$`)

// Build makes the MSI. Out appears whole or not at all.
func Build(ctx context.Context, o Options) error {
	if !versionRule.MatchString(o.Version) {
		return fmt.Errorf("version %q: three numbers, at most 255.255.65535", o.Version)
	}
	if (o.Certificate == "") != (o.Key == "") {
		return errors.New("a certificate and its key, or neither")
	}
	dir, err := os.MkdirTemp(filepath.Dir(o.Out), ".msi-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// Wixl finds files only below the folder that it runs in.
	program, msi := filepath.Join(dir, "hikae-agent.exe"), filepath.Join(dir, "out.msi")
	if err := copyFile(program, o.Program); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "agent.wxs"), source, 0o600); err != nil {
		return err
	}
	if err := o.sign(ctx, program); err != nil {
		return err
	}
	if err := run(ctx, dir, "wixl", "-a", "x64", "-D", "Version="+o.Version, "-o", "out.msi", "agent.wxs"); err != nil {
		return err
	}
	if err := run(ctx, dir, "msibuild", "out.msi", "-q", secure); err != nil {
		return err
	}
	if err := o.sign(ctx, msi); err != nil {
		return err
	}
	return os.Rename(msi, o.Out)
}

// sign signs a file in place.
func (o Options) sign(ctx context.Context, file string) error {
	if o.Certificate == "" {
		return nil
	}
	cert, err := filepath.Abs(o.Certificate)
	if err != nil {
		return err
	}
	key, err := filepath.Abs(o.Key)
	if err != nil {
		return err
	}
	signed := file + ".signed"
	args := []string{"sign", "-certs", cert, "-key", key, "-h", "sha256", "-n", "Hikae Agent", "-in", file, "-out", signed}
	if o.Timestamp != "" {
		args = append(args, "-ts", o.Timestamp)
	}
	if err := run(ctx, filepath.Dir(file), "osslsigncode", args...); err != nil {
		return err
	}
	return os.Rename(signed, file)
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o600)
}

// run runs a program, whose words are the error's.
func run(ctx context.Context, dir, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out[:min(len(out), 2000)])))
	}
	return nil
}

func main() {
	var o Options
	flag.StringVar(&o.Program, "program", "", "hikae-agent.exe")
	flag.StringVar(&o.Version, "version", "", "1.2.3")
	flag.StringVar(&o.Out, "out", "hikae-agent.msi", "the MSI")
	flag.StringVar(&o.Certificate, "certificate", "", "sign with this certificate (PEM, with its chain)")
	flag.StringVar(&o.Key, "key", "", "the certificate's key (PEM)")
	flag.StringVar(&o.Timestamp, "timestamp", "", "address of a time stamping authority")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := Build(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "msi:", err)
		os.Exit(1)
	}
}
