package vmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/sts"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// locale is the language of the server's messages, some of which are looked at.
const locale = "en_US"

// ErrSessionLost says that the server no longer knows a session which this program did not begin, and cannot begin again.
var ErrSessionLost = errors.New("the session that was handed in has ended")

func (l Login) check() error {
	ways := 0
	for _, way := range []string{l.User, l.Token, l.Session} {
		if way != "" {
			ways++
		}
	}
	if ways != 1 {
		return fmt.Errorf("%w: one of user, token and session is needed to log in", fs.ErrInvalid)
	}
	if err := (&http.Cookie{Name: soap.SessionCookieName, Value: strings.Trim(l.Session, `"`)}).Valid(); err != nil {
		return fmt.Errorf("%w: the session is no value of a cookie", fs.ErrInvalid)
	}
	return nil
}

// login is one that lasts: it is repeated when the server forgets it.
type login struct {
	c   *Client
	who Login

	turn chan struct{} // holds a token while nobody logs in

	mu     sync.Mutex
	times  int           // that it was logged in
	broken error         // the server said no
	until  time.Time     // that nobody asks again: each refusal counts towards locking the account
	deaf   time.Duration // how long the next refusal is believed
	closed bool
	key    string // of the session
	user   string // as the server calls it
}

func newLogin(c *Client, who Login) *login {
	l := &login{c: c, who: who, turn: make(chan struct{}, 1)}
	l.turn <- struct{}{}
	return l
}

// state is how often it was logged in, or why nobody can.
func (l *login) state() (times int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.times, fmt.Errorf("%s: the client is closed: %w", l.c.Address(), net.ErrClosed)
	}
	if time.Now().Before(l.until) {
		return l.times, l.broken
	}
	return l.times, nil
}

// close reports whether there is a session that has to be ended.
func (l *login) close() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.closed
	l.closed = true
	return !was && l.times > 0 && l.who.Session == ""
}

func (l *login) first(ctx context.Context) error { return l.again(ctx, 0) }

// again logs in, unless somebody has done that since it was seen. Whoever comes meanwhile waits for that one login. One that
// the server refuses is not repeated for a while, and for a longer one each time: servers lock an account after five refusals
// within 3 minutes (vCenter) or 15 (ESXi). It is not final either: directories have bad minutes.
func (l *login) again(ctx context.Context, seen int) error {
	select {
	case <-l.turn:
		defer func() { l.turn <- struct{}{} }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if times, err := l.state(); err != nil || times != seen {
		return err
	}
	session, err := l.do(ctx, seen)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("log in as %s: %w", l.who, err)
		if refused(err) {
			l.deaf = min(max(firstDeaf, moreDeaf*l.deaf), mostDeaf)
			l.broken, l.until = err, time.Now().Add(l.deaf)
		}
		return err
	}
	l.broken, l.deaf = nil, 0
	l.times, l.key, l.user = l.times+1, session.Key, session.UserName
	return nil
}

const (
	firstDeaf = 30 * time.Second // that a refused login is not repeated
	moreDeaf  = 4                // times as long after each further refusal: four of them in 15 minutes
	mostDeaf  = time.Hour
)

// refused: to ask once more would be answered no once more.
func refused(err error) bool {
	return errors.Is(err, ErrSessionLost) || isFault[*types.InvalidLogin](err) || isFault[*types.PasswordExpired](err) ||
		isFault[*types.NoPermission](err) || isFault[*types.RestrictedVersion](err)
}

func (l *login) do(ctx context.Context, seen int) (*types.UserSession, error) {
	manager := *l.c.vim.ServiceContent.SessionManager
	if seen > 0 && l.who.Session == "" {
		// A server that is short of something says of a session that it is none, and refuses a login into one that is.
		if session, err := l.c.currentSession(ctx, l.c.vim.Client); err == nil {
			return session, nil
		}
	}
	switch {
	case l.who.Session != "":
		return l.adopt(ctx)
	case l.who.Token != "":
		ctx = l.c.vim.Client.WithHeader(ctx, soap.Header{Security: &sts.Signer{Token: l.who.Token}})
		res, err := methods.LoginByToken(ctx, l.c.vim, &types.LoginByToken{This: manager, Locale: locale})
		if err != nil {
			return nil, err
		}
		return &res.Returnval, nil
	}
	res, err := methods.Login(ctx, l.c.vim, &types.Login{This: manager, UserName: l.who.User, Password: l.who.Password, Locale: locale})
	if err != nil {
		return nil, err
	}
	return &res.Returnval, nil
}

// adopt takes a session over that somebody else began.
func (l *login) adopt(ctx context.Context) (*types.UserSession, error) {
	at := &url.URL{Scheme: "https", Host: l.c.address.Host, Path: "/"}
	value := strings.Trim(l.who.Session, `"`)
	l.c.vim.Jar.SetCookies(at, []*http.Cookie{{
		Name: soap.SessionCookieName, Value: value, Quoted: value != l.who.Session, Path: "/", Secure: true, HttpOnly: true}})
	// Not by way of what repeats a call when the session is lost: that would come back here.
	session, err := l.c.currentSession(ctx, l.c.vim.Client)
	if isFault[*types.NotAuthenticated](err) {
		return nil, ErrSessionLost
	}
	return session, err
}

// currentSession is the session as the server knows it; without one, an error.
func (c *Client) currentSession(ctx context.Context, rt soap.RoundTripper) (*types.UserSession, error) {
	req := types.RetrieveProperties{This: c.vim.ServiceContent.PropertyCollector, SpecSet: []types.PropertyFilterSpec{{
		ObjectSet: []types.ObjectSpec{{Obj: *c.vim.ServiceContent.SessionManager}},
		PropSet:   []types.PropertySpec{{Type: "SessionManager", PathSet: []string{"currentSession"}}},
	}}}
	res, err := methods.RetrieveProperties(ctx, rt, &req)
	if err != nil {
		return nil, err
	}
	var managers []mo.SessionManager
	if err := mo.LoadObjectContent(res.Returnval, &managers); err != nil {
		return nil, err
	}
	if len(managers) != 1 || managers[0].CurrentSession == nil {
		return nil, soap.WrapVimFault(&types.NotAuthenticated{})
	}
	return managers[0].CurrentSession, nil
}

// session is whose session this is.
func (l *login) session() (key, user string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.key, l.user
}
