"""Rasters of strangers: text in an image's place, names of other files, and blocks of gigabytes."""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import rasterio

from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader, RasterWriter
from mkd.geo.raster_safety import RasterLimits

UNTRUSTED, TRUSTED = RasterLimits(), RasterLimits(trust_vrt=True)


def write_tif(path, size=16, value=7):
    with RasterWriter(path, size, size, 1, "uint8") as writer:
        writer.write(Window(0, 0, size, size), np.full((size, size), value, np.uint8))
    return path


def vrt(source, relative=0, tag="SourceFilename", extra=""):
    return (
        '<VRTDataset rasterXSize="16" rasterYSize="16"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f'<{tag} relativeToVRT="{relative}">{source}</{tag}><SourceBand>1</SourceBand></SimpleSource>'
        f"</VRTRasterBand>{extra}</VRTDataset>"
    )


@pytest.fixture
def tif(tmp_path):
    return write_tif(tmp_path / "real.tif")


@pytest.fixture
def server():
    """A server of this machine that counts who asks it."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", asked
    httpd.shutdown()
    httpd.server_close()


def refused(path, limits=UNTRUSTED):
    with pytest.raises(ValueError, match=r"\w") as caught:
        RasterReader(path, limits=limits)
    said = str(caught.value)
    assert "\n" not in said
    assert str(path) in said
    return said


@pytest.mark.parametrize("name", ["x.vrt", "X.VRT", "a [b].vrt"])
@pytest.mark.parametrize("relative", [0, 1])
def test_a_vrt_that_the_user_names_is_read(tmp_path, tif, name, relative):
    """A .vrt of plain files, relative or absolute, is a raster like any other."""
    (tmp_path / name).write_text(vrt("real.tif" if relative else tif, relative))
    with RasterReader(tmp_path / name) as reader:
        assert (reader.read(Window(0, 0, 16, 16)) == 7).all()


@pytest.mark.parametrize("name", ["x.tif", "x.png", "x", "x.vrt.tif"])
@pytest.mark.parametrize("before", ["", "\ufeff", " \n\t", '<?xml version="1.0"?>'])
def test_text_under_another_name_is_refused(tmp_path, tif, name, before):
    """GDAL goes by content; we by both: text that names files is a .vrt, or trusted."""
    (tmp_path / name).write_text(before + vrt(tif), encoding="utf-8")
    said = refused(tmp_path / name)
    assert "is text that names other files, not an image" in said
    assert "--trust-vrt" in said
    if before in ("", '<?xml version="1.0"?>'):
        with RasterReader(tmp_path / name, limits=TRUSTED) as reader:
            assert reader.info.bands == 1


@pytest.mark.parametrize(
    "text", ["<GDAL_WMS><Service/></GDAL_WMS>", '{"type": "FeatureCollection"}', "<svg/>"]
)
def test_other_text_is_refused_too(tmp_path, text):
    """So are the other text formats of GDAL that fetch what they name."""
    (tmp_path / "x.tif").write_text(text)
    assert "--trust-vrt" in refused(tmp_path / "x.tif")


MEMBERS = {
    "/vsi": "/vsicurl/{url}/x.tif",
    "/vsi in capitals": "/VSICURL/{url}/x.tif",
    "/vsi as an entity": "&#47;vsicurl/{url}/x.tif",
    "/vsi in another": "/vsizip//vsicurl/{url}/x.zip/x.tif",
    "a URL": "{url}/x.tif",
    "a name of a driver": "VRT://{url}/x.tif",
    "a subdataset": "NETCDF:x.nc:band",
    "XML": "&lt;VRTDataset&gt;&lt;/VRTDataset&gt;",
}


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("tag", ["SourceFilename", "SourceDataset"])
def test_a_vrt_that_leaves_the_disk_is_refused(tmp_path, server, member, tag):
    """Members that are no plain paths are refused, and nobody is asked over the network."""
    url, asked = server
    (tmp_path / "x.vrt").write_text(vrt(MEMBERS[member].format(url=url), tag=tag))
    assert "--trust-vrt" in refused(tmp_path / "x.vrt")
    assert asked == []


def test_a_trusted_vrt_may_ask(tmp_path, server):
    """With trust GDAL does what the file says: the refusal above is what keeps the network out."""
    url, asked = server
    (tmp_path / "x.vrt").write_text(vrt(f"/vsicurl/{url}/x.tif"))
    with pytest.raises(ValueError, match=r"\w"):
        with RasterReader(tmp_path / "x.vrt", limits=TRUSTED) as reader:
            reader.read(Window(0, 0, 16, 16))
    assert asked != []


def test_members_are_looked_into(tmp_path, tif):
    """A .vrt of a .vrt is read; one whose member hides text is refused, however deep, and circles end."""
    (tmp_path / "a.vrt").write_text(vrt("b.vrt", 1))
    (tmp_path / "b.vrt").write_text(vrt("real.tif", 1))
    with RasterReader(tmp_path / "a.vrt") as reader:
        assert reader.info.bands == 1
    (tmp_path / "hidden.tif").write_text(vrt("/vsicurl/http://127.0.0.1:1/x.tif"))
    (tmp_path / "b.vrt").write_text(vrt("hidden.tif", 1))
    assert "hidden.tif, which is text" in refused(tmp_path / "a.vrt")
    (tmp_path / "b.vrt").write_text(vrt("a.vrt", 1))
    with pytest.raises(ValueError, match="a.vrt"):
        with RasterReader(tmp_path / "a.vrt") as reader:
            reader.read(Window(0, 0, 16, 16))


@pytest.mark.parametrize("sidecar", [".ovr", ".msk"])
def test_sidecars_are_looked_at(tmp_path, tif, sidecar):
    """Text beside an image, where GDAL expects masks and overviews, names files as well."""
    (tmp_path / f"real.tif{sidecar}").write_text(vrt("/vsicurl/http://127.0.0.1:1/x.tif"))
    assert f"real.tif{sidecar} beside it names other files" in refused(tif)


def test_statistics_beside_a_raster_are_harmless(tmp_path, tif):
    """An .aux.xml of QGIS or GDAL is read; one with the name of a remote overview is not."""
    aux = tmp_path / "real.tif.aux.xml"
    aux.write_text(
        "<PAMDataset xmlns:x='http://www.esri.com'><Metadata><MDI key='a'>1</MDI></Metadata></PAMDataset>"
    )
    with RasterReader(tif) as reader:
        assert reader.info.bands == 1
    aux.write_text(
        '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">x</MDI></Metadata></PAMDataset>'
    )
    assert "beside it names other files" in refused(tif)


def test_blocks_of_gigabytes_are_refused(tmp_path):
    """A 64 x 64 raster in one block of 40,000 x 40,000 is not opened; a larger limit is the user's choice."""
    path = tmp_path / "x.tif"
    options = {
        "driver": "GTiff",
        "width": 64,
        "height": 64,
        "count": 1,
        "dtype": "uint8",
        "compress": "deflate",
    }
    with rasterio.open(path, "w", **options, tiled=True, blockxsize=2048, blockysize=2048):
        pass
    with RasterReader(path) as reader:
        assert reader.info.stored == (2048, 2048)
    said = refused(path, RasterLimits(max_pixels=1_000_000))
    assert "blocks of 2,048 x 2,048 pixels" in said
    assert "TILED=YES" in said
    with rasterio.open(
        path, "w", **options, tiled=True, blockxsize=40_000, blockysize=40_000, SPARSE_OK=True
    ):
        pass
    assert "at most 100,000,000 pixels" in refused(path)


@pytest.mark.parametrize("name", ["x.tif.msk", "x.tif.ovr", "x.tif.aux.xml"])
def test_a_fifo_beside_a_raster(tmp_path, name):
    """GDAL would open it and wait without end: it is named instead."""
    tif = write_tif(tmp_path / "x.tif")
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} is no file: remove it"):
        RasterReader(tif)


@pytest.mark.parametrize("kind", ["fifo", "device", "loop"])
def test_a_vrt_of_what_is_no_file(tmp_path, kind):
    """The members of a .vrt are files: a FIFO, a device and a link to itself are refused."""
    member = tmp_path / "member.tif"
    if kind == "fifo":
        os.mkfifo(member)
    else:
        member.symlink_to("/dev/zero" if kind == "device" else member)
    (tmp_path / "x.vrt").write_text(vrt(member))
    with pytest.raises(ValueError, match=r"member\.tif is no file"):
        RasterReader(tmp_path / "x.vrt")
