package sshchannel

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/hikae/hikae/guest"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// errQuestions says that a server asks for more than a password.
var errQuestions = errors.New("the server asks questions that a password does not answer")

// login is what a credential offers, in the order in which it is offered. stop ends the connection to the SSH agent.
func login(cred guest.Credential) (methods []ssh.AuthMethod, stop func(), err error) {
	var signers []ssh.Signer
	if len(cred.PrivateKey) > 0 {
		signer, err := parseKey(cred)
		if err != nil {
			return nil, nil, err
		}
		signers = append(signers, signer)
	}
	stop = func() {}
	if cred.Agent {
		conn, err := dialAgent()
		if err != nil {
			return nil, nil, err
		}
		stop = func() { conn.Close() }
		offered, err := agent.NewClient(conn).Signers()
		if err != nil {
			stop()
			return nil, nil, fmt.Errorf("ask the SSH agent for its keys: %w", err)
		}
		signers = append(signers, offered...)
	}
	if len(signers) > 0 {
		methods = append(methods, ssh.PublicKeys(signers...))
	}
	if cred.Password != "" {
		methods = append(methods, ssh.Password(cred.Password), ssh.KeyboardInteractive(answerer(cred.Password)))
	}
	if len(methods) == 0 {
		stop()
		return nil, nil, errors.New("the credential has neither a key nor a password")
	}
	return methods, stop, nil
}

func parseKey(cred guest.Credential) (ssh.Signer, error) {
	signer, err := ssh.ParsePrivateKey(cred.PrivateKey)
	var locked *ssh.PassphraseMissingError
	if !errors.As(err, &locked) {
		return signer, err
	}
	if cred.Passphrase == "" {
		return nil, errors.New("the private key is locked, and there is no passphrase for it")
	}
	return ssh.ParsePrivateKeyWithPassphrase(cred.PrivateKey, []byte(cred.Passphrase))
}

func dialAgent() (net.Conn, error) {
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return nil, errors.New("no SSH agent: SSH_AUTH_SOCK is not set")
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("connect to the SSH agent: %w", err)
	}
	return conn, nil
}

// answerer answers the one question that servers ask instead of taking a password. It answers once: a second question
// means that the answer was wrong, or that the server wants a code from somewhere else.
func answerer(password string) ssh.KeyboardInteractiveChallenge {
	answered := false
	return func(_, _ string, questions []string, echos []bool) ([]string, error) {
		if len(questions) == 0 {
			return nil, nil
		}
		if len(questions) > 1 || echos[0] || answered {
			return nil, errQuestions
		}
		answered = true
		return []string{password}, nil
	}
}
