"""Shares: how a mounted volume is offered over SMB and NFS.

The share model (`model`), its pure translations into the configuration of the daemons (`smbconf`, `ganesha`),
the protocols' servers (`smb`, `nfs`) with the daemons as supervised children (`supervisor`), and samba's
tools behind one wrapper (`tools`). It imports nothing of `fusegw`: it sees a mount point, never a store or a
key, so a share can be described and checked without a gateway.
"""
