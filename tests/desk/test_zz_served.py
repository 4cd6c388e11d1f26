"""Scratch."""
import os, re, time, json, urllib.request
import pytest
from test_served import *  # noqa
from test_served import server  # noqa
import rlhf_helpers.lesson.feedback as fb
OUT = os.environ["WORKBOOK_SCREENSHOTS"]
ACTIVE = "() => { const e = document.activeElement; return [e.tagName, (e.getAttribute('aria-label')||e.innerText||'').slice(0,30), !!e.closest('.rlhf-labeller')]; }"

def card(page):
    return page.locator(".rlhf-labeller")

def n_labelled(page, n):
    from playwright.sync_api import expect
    expect(card(page)).to_contain_text(re.compile(rf"(^|\D){n} of \d+ labelled"), timeout=30000)
    page.wait_for_timeout(450)

def test_s(server, chromium):
    from playwright.sync_api import sync_playwright, expect
    expect.set_options(timeout=30_000)
    with sync_playwright() as p:
        chrome = p.chromium.launch(executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"])
        # no storage
        ctx = chrome.new_context()
        ctx.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new Error('denied'); }})")
        page = ctx.new_page()
        page.goto(server.ann)
        n_labelled(page, 0)
        print("FOCUS at start", page.evaluate(ACTIVE))
        page.keyboard.press("a")
        n_labelled(page, 1)
        server.stop()
        expect(page.get_by_role("alert").first).to_contain_text("The server has stopped")
        page.keyboard.press("b"); page.wait_for_timeout(600); page.keyboard.press("t"); page.wait_for_timeout(600)
        print("NO STORAGE says", card(page).get_by_role("status").inner_text())
        server.start()
        server.labels(3, "ann")
        n_labelled(page, 3)
        print("url", page.url)
        # offline for a moment
        dialogs = []
        page.on("dialog", lambda d: (dialogs.append(d.type), d.dismiss()))
        # keyboard only: tab order
        order = []
        page.evaluate("document.activeElement.blur()")
        for _ in range(16):
            page.keyboard.press("Tab")
            order.append(page.evaluate(ACTIVE)[1])
        print("ORDER", order)
        # leave with something kept: is one asked?
        server.stop()
        expect(page.get_by_role("alert").first).to_contain_text("The server has stopped")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("a"); page.wait_for_timeout(1000)
        print("after blur says", card(page).get_by_role("status").inner_text())
        page.close(run_before_unload=True); time.sleep(1)
        print("DIALOGS", dialogs, "closed", page.is_closed())
        server.start()
        if not page.is_closed():
            server.labels(4, "ann")
            print("came back by itself")
        # touch, dark, 360
        ctx = chrome.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, color_scheme="dark")
        ben = ctx.new_page()
        ben.goto(server.ben)
        n_labelled(ben, 0)
        ben.screenshot(path=f"{OUT}/served-touch-dark.png", full_page=True)
        for n in range(3):
            n_labelled(ben, n)
            ben.screenshot(path=f"{OUT}/served-touch-dark-{n}.png")
            card(ben).get_by_role("region", name="Response B").tap()
        server.labels(3, "ben")
        # wrong websocket
        import websocket
        for link in (server.ann[:-3] + "00/", server.ann.rsplit("/", 2)[0] + "/"):
            try:
                websocket.create_connection(link.replace("http", "ws", 1) + "websocket/", timeout=10); print("OPEN?!")
            except Exception as e:
                print("WS", type(e).__name__, str(e)[:80])
        for path in ("", "/..", "/%2e%2e/", "/?x=1"):
            r = page_of(server.ann.rsplit("/", 2)[0] + path)
            print("PATH", path, r[:4])
        print("NO SLASH", page_of(server.ann.rstrip("/"))[:60])
        chrome.close()
