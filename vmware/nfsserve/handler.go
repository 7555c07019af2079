package nfsserve

import (
	"context"
	"crypto/hmac"
	"net"

	"github.com/go-git/go-billy/v5"
	"github.com/willscott/go-nfs"

	"github.com/hikae/hikae/internal/freespace"
)

// handler is what the library asks. It implements nfs.Handler.
type handler struct {
	*handles
	server *Server
}

var _ nfs.Handler = handler{}

// Mount lets in who knows the path.
func (h handler) Mount(_ context.Context, _ net.Conn, r nfs.MountRequest) (nfs.MountStatus, billy.Filesystem, []nfs.AuthFlavor) {
	if !hmac.Equal(r.Dirpath, []byte(h.server.Path())) {
		return nfs.MountStatusErrAcces, h.server.share, nil
	}
	return nfs.MountStatusOk, h.server.share, []nfs.AuthFlavor{nfs.AuthFlavorUnix, nfs.AuthFlavorNull}
}

// Change is who changes attributes.
func (h handler) Change(billy.Filesystem) billy.Change { return h.server.share }

// FSStat tells what room there is: what stays free is none.
func (h handler) FSStat(_ context.Context, _ billy.Filesystem, st *nfs.FSStat) error {
	size, free, err := freespace.Of(h.server.opts.Folder)
	if err != nil {
		return nil
	}
	free -= min(free, uint64(h.server.opts.LeastFree))
	st.TotalSize, st.FreeSize, st.AvailableSize = size, free, free
	return nil
}
