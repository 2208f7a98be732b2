"""Shares: how a mounted volume is offered over SMB and NFS.

Holds no code yet. It will hold the share model (name, path, protocol, who may connect), its pure translations
into smb.conf and ganesha.conf, and the supervision of smbd and ganesha. It imports nothing of `fusegw`: it
sees a mount point, never a store or a key, so a share can be described and checked without a gateway.
"""
